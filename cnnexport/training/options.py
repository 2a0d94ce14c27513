"""What a training run is asked for: options, the papers' recipes, and the defaults of each family."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from cnnexport.architectures.spec import Architecture
from cnnexport.errors import UsageError

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
SCHEDULES = ("constant", "cosine", "step", "exponential")
AUGMENTATIONS = ("flip", "shift", "zoom", "rotate", "crop", "brightness")
CLASS_WEIGHTS = ("none", "balanced")
RECIPES = ("default", "paper")


@dataclass(frozen=True)
class Options:
    """How a network is trained; every value is in force as it stands.

    ``momentum`` is that of SGD; ``weight_decay`` is decoupled, a share of each kernel and learning rate;
    ``validation`` is the share of the training images that is held out; ``early_stopping`` is the number of epochs
    without a better validation loss after which a phase ends with its best weights (0: never); ``limit`` is the
    number of training images used (0: all); ``fine_tune`` is the number of backbone layers with weights that learn
    in a second phase of ``fine_tune_epochs``.
    """

    epochs: int = 10
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    augment: tuple[str, ...] = ()
    validation: float = 0.1
    early_stopping: int = 0
    class_weights: str = "none"
    limit: int = 0
    seed: int = 0
    mixed_precision: bool = False
    fine_tune: int = 0
    fine_tune_epochs: int = 5
    fine_tune_rate: float = 1e-5
    recipe: str = "default"

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values."""
        return {**asdict(self), "augment": list(self.augment)}


_DEFAULTS: dict[str, dict[str, Any]] = {
    "lenet": {"epochs": 15, "batch_size": 32, "learning_rate": 2e-3, "augment": ("shift", "zoom", "rotate")},
    # Without normalisation, Adam's usual rate of 1e-3 drives deep networks to constant outputs.
    "vgg": {"learning_rate": 1e-4},
    "resnet": {"augment": ("shift", "zoom", "rotate")},
    "alexnet": {"learning_rate": 1e-4, "batch_size": 32},
}
_PAPERS: dict[str, dict[str, Any]] = {
    # LeCun 1998, section III.B and C: 20 passes, stochastic gradient, a global rate that falls.
    "lenet": {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.05, "schedule": "step", "epochs": 20,
              "batch_size": 16},
    # Krizhevsky 2012, sections 4.1 and 5: 90 passes, the rate divided by 10 when the error stops falling.
    "alexnet": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "learning_rate": 0.01, "schedule": "step",
                "epochs": 90, "batch_size": 128, "augment": ("crop", "flip")},
    # Simonyan 2015, section 3.1: 74 passes.
    "vgg": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "learning_rate": 0.01, "schedule": "step",
            "epochs": 74, "batch_size": 256, "augment": ("crop", "flip")},
    # He 2016, section 3.4: 60e4 iterations of 256, about 120 passes.
    "resnet": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "learning_rate": 0.1, "schedule": "step",
               "epochs": 120, "batch_size": 256, "augment": ("crop", "flip")},
}


def resolve(spec: Architecture, given: dict[str, Any]) -> Options:
    """The options in force: those ``given`` (None: not given), then the recipe's, then the family's, then Options'.

    Raises UsageError for values that do not go together.
    """
    given = {key: value for key, value in given.items() if value is not None}
    if unknown := set(given) - {f.name for f in fields(Options)}:
        raise UsageError(f"'{min(unknown)}' is no option of training")
    recipe = given.get("recipe", "default")
    if recipe not in RECIPES:
        raise UsageError(f"recipe '{recipe}' is unknown; choose {' or '.join(RECIPES)}")
    if recipe == "paper" and spec.family not in _PAPERS:
        raise UsageError(f"no paper gives a recipe for {spec.name}; leave --recipe out")
    base = _PAPERS[spec.family] if recipe == "paper" else _DEFAULTS.get(spec.family, {})
    values = {**base, **given}
    values["augment"] = tuple(dict.fromkeys(values.get("augment", ())))
    options = Options(**values)
    _check(spec, options, given)
    return options


def _check(spec: Architecture, options: Options, given: dict[str, Any]) -> None:
    for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("class_weights", CLASS_WEIGHTS)):
        if getattr(options, name) not in known:
            raise UsageError(f"{name.replace('_', ' ')} '{getattr(options, name)}' is unknown; choose one of "
                             f"{', '.join(known)}")
    if wrong := [a for a in options.augment if a not in AUGMENTATIONS]:
        raise UsageError(f"augmentation '{wrong[0]}' is unknown; choose among {', '.join(AUGMENTATIONS)}")
    for name in ("epochs", "batch_size", "fine_tune_epochs"):
        if getattr(options, name) < 1:
            raise UsageError(f"{name.replace('_', ' ')} is {getattr(options, name)}; it must be 1 or more")
    for name in ("early_stopping", "limit", "seed", "fine_tune"):
        if getattr(options, name) < 0:
            raise UsageError(f"{name.replace('_', ' ')} is {getattr(options, name)}; it must be 0 or more")
    for name in ("learning_rate", "fine_tune_rate"):
        if not 0 < getattr(options, name) < float("inf"):
            raise UsageError(f"{name.replace('_', ' ')} is {getattr(options, name)}; it must be above 0")
    if not 0 <= options.momentum < 1:
        raise UsageError(f"momentum is {options.momentum}; it must be from 0 to below 1")
    if not 0 <= options.weight_decay < 1:
        raise UsageError(f"weight decay is {options.weight_decay}; it must be from 0 to below 1")
    if not 0 <= options.validation < 1:
        raise UsageError(f"validation is {options.validation}; it is a share of the training images, such as 0.1")
    if options.early_stopping and not options.validation:
        raise UsageError("early stopping watches the validation loss; give --validation a share above 0")
    if options.fine_tune and not spec.backbone:
        raise UsageError(f"{spec.name} has no frozen backbone, so nothing is there to --fine-tune")
    if not options.fine_tune and {"fine_tune_epochs", "fine_tune_rate"} & set(given):
        raise UsageError("--fine-tune-epochs and --fine-tune-rate need --fine-tune N")
