"""Which parts of a network are trained, and from which step on, by the settings' `transfer`."""

from collections.abc import Mapping

from torch import nn

from segsync.errors import InputError
from segsync_train.config.run import TransferConfig
from segsync_train.config.settings import unknown_key
from segsync_train.trainer.schedule import Pace


def freeze(network: nn.Module, config: TransferConfig, factors: Mapping[str, float]) -> dict[str, Pace]:
    """Freeze the parts of a network that the settings name.

    Parts without `freeze_steps` take no gradients; the others have a learning rate of 0 until then.

    Args:
        network: The network.
        config: The settings.
        factors: The inherited parameters' fractions of the learning rate.

    Returns:
        The pace of every parameter that is not trained as the rest is.

    Raises:
        InputError: A part does not exist, or nothing would be trained.
    """
    frozen = _parameters_of(network, config.freeze)
    paces = {name: Pace(factor, warmup=config.warmup_steps) for name, factor in factors.items()}
    if config.freeze_steps is None:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    else:
        for name in frozen:
            warmup = config.warmup_steps if name in factors else 0
            paces[name] = Pace(factors.get(name, 1.0), config.freeze_steps, warmup)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"transfer.freeze: expected some part to be trained, found {', '.join(config.freeze)}")
    return paces


def _parameters_of(network: nn.Module, parts: tuple[str, ...]) -> set[str]:
    """Names of the parameters in the modules of these names."""
    names = [name for name, _ in network.named_parameters()]
    modules = [name for name, module in network.named_modules() if name and any(True for _ in module.parameters())]
    for part in parts:
        if part not in modules:
            # Near the top: the names of a large network would fill the screen.
            known = [name for name in modules if name.count(".") <= max(1, part.count("."))]
            raise InputError(f"transfer.freeze: {unknown_key(part, known)}".replace("unknown key", "no part is called"))
    return {name for name in names if any(name.startswith(f"{part}.") for part in parts)}
