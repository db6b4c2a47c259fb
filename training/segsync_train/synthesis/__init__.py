"""Images and masks drawn at random from label maps and lesion masks: every case is a function of its seed."""

from segsync_train.config.synthesis import SynthesisConfig
from segsync_train.synthesis.anatomy import Anatomies, Anatomy
from segsync_train.synthesis.generator import CHANNELS, Generator, SyntheticCase
from segsync_train.synthesis.sources import SynthesisSources, load_sources

__all__ = [
    "CHANNELS",
    "Anatomies",
    "Anatomy",
    "Generator",
    "SynthesisConfig",
    "SynthesisSources",
    "SyntheticCase",
    "load_sources",
]
