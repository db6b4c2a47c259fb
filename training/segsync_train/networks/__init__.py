"""Networks: the xLSTM-UNet of 3D-SegSync, and the baselines it is compared with."""

from segsync_train.networks.baselines import Baseline
from segsync_train.networks.xlstm_unet import XLSTMUNet

#: Called in training mode they give a list of logits, finest first; in evaluation mode the finest alone.
SegmentationNetwork = XLSTMUNet | Baseline
