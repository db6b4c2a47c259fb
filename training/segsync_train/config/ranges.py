"""Numbers of the settings that have bounds: fractions, ranges with the smaller end first, weights of a choice."""

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0, le=1)]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("expected the smaller value first")
    return ends


def _some(weights: tuple[float, ...]) -> tuple[float, ...]:
    if sum(weights) == 0:
        raise ValueError("expected a weight above 0")
    return weights


#: What is drawn between two ends, both included.
Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
NonNegativeRange = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)]
PositiveCountRange = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_ordered)]
#: Weights of a choice: they need not add up to 1, but one of them is above 0.
Weights = Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1), AfterValidator(_some)]
TwoWeights = Annotated[Weights, Field(min_length=2, max_length=2)]
ThreeWeights = Annotated[Weights, Field(min_length=3, max_length=3)]
FourWeights = Annotated[Weights, Field(min_length=4, max_length=4)]
FiveWeights = Annotated[Weights, Field(min_length=5, max_length=5)]
