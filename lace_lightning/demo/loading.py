"""Sessions of the page from words of the command line: shipped networks at once, everything else through a run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..classifiers import load_classifier
from ..configuration import choices, config_folder, describe
from ..errors import LaceError, in_one_line, suggest
from ..generators import load_generator
from ..samplers import Heun
from ..weights import card, weight_names
from .session import STANDARD_METHOD, Method, Session

# Methods that are shown first; the others follow.
FIRST_METHODS = (STANDARD_METHOD, "lace_ode", "lace_cubic", "annealed_controlled", "rejection")
# Groups of settings that the page sets by itself.
OWN = ("query", "metrics", "editing", "edits", "seeds", "task", "method", "+method", "energy", "energies", "model")
# Methods whose pictures a labeler checks, which the page does not load.
CHECKED_METHODS = ("annealed_checked", "hybrid")


@dataclass(frozen=True)
class Preset:
    """What the page shows of a shipped generator.

    Args:
        experiment: the experiment of its classifier.
        query: the condition of a new page.
        strength: γ of a new page.
        edit_strength: weight of edits of a new page.
        identity: name of an identity embedding; None for none.

    Example:
        >>> PRESETS["faces"].experiment
        'faces_smile'
    """

    experiment: str
    query: str
    strength: float = 6.0
    edit_strength: float = 4.0
    identity: str | None = None


PRESETS = {
    "faces": Preset("faces_smile", "smile == yes", identity="face_api_descriptor"),
    "portraits": Preset(
        "portraits_gender_smile_age", "smile == yes and glasses == yes", 8.0, 8.0, identity="portraits_identity"
    ),
    # A flow to a value of the slant is stiff: at γ = 6 it takes twenty times as long as at 1, and is as right.
    "digits": Preset("digits_slant_thickness", "label == 7 and slant == 0.6", 1.0, 1.0),
    "cifar10": Preset("cifar10_heun", "label == ship"),
}


@dataclass(frozen=True)
class Page:
    """A session, and the words of the commands that make its pictures.

    Args:
        session: the networks.
        words: words that name generator and classifier in `lace-lightning draw` and `edit`.
        preset: what a new page shows.

    Example:
        >>> page = load_page([])
        >>> page.session.name, page.words
        ('faces', ('--experiment', 'faces_smile'))
    """

    session: Session
    words: tuple[str, ...]
    preset: Preset


def load_page(settings: Sequence[str]) -> Page:
    """Return the page of settings of the command line.

    A shipped generator with its shipped classifier is loaded at once. Everything else is loaded as a run does it, which
    trains a classifier first where there is none, once for all later pages and runs.

    Args:
        settings: words key=value: generator, experiment, classifier, and settings of a run.

    Raises:
        LaceError: for words that are no settings, unknown names, and networks that cannot be loaded.
    """
    given = [_as_setting(word) for word in settings]
    keys = dict(word.lstrip("+").partition("=")[::2] for word in given)
    generator, experiment = keys.get("generator"), keys.get("experiment")
    if experiment is not None and experiment not in choices("experiment"):
        raise LaceError(f"There is no experiment '{experiment}'.{suggest(experiment, choices('experiment'))}")
    if generator is not None and experiment is None and generator not in PRESETS:
        raise LaceError(
            f"The page of the generator '{generator}' needs an experiment that says what labels its pictures: add "
            f"experiment=NAME, or choose generator={', '.join(PRESETS)}.{suggest(generator, PRESETS)}"
        )
    name = generator or ("faces" if experiment is None else None)
    if set(keys) <= {"generator"} and f"{name}_classifier" in weight_names():
        return _shipped_page(str(name))
    experiment = experiment or PRESETS[str(name)].experiment
    others = [word for word in given if word.lstrip("+").partition("=")[0] != "experiment"]
    if name in PRESETS and keys.get("experiment") is None:
        others = [word for word in others if word != f"generator={name}"]
    return _page_of_run(experiment, others)


def _as_setting(word: str) -> str:
    """Return a word as a setting; a file of a classifier is one of its weights."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise LaceError(f"The page takes settings key=value, received '{word}': write for example generator=portraits.")
    if key.partition(".")[0] in OWN:
        raise LaceError(f"The page has '{key}' of its own, as a control: leave {word} out, and choose it there.")
    if key == "classifier" and (value.endswith(".safetensors") or value in weight_names()):
        return f"classifier.weights={value}"
    return word


def _shipped_page(name: str) -> Page:
    preset = PRESETS[name]
    content = yaml.safe_load((config_folder() / "generator" / f"{name}.yaml").read_text(encoding="utf-8"))
    generator = load_generator(**{key: value for key, value in content.items() if key != "_target_"})
    words = ("--experiment", preset.experiment)
    session = Session(
        generator,
        load_classifier(name),
        name,
        methods=lambda method: method_of(preset.experiment, (), method),
        identity=preset.identity,
        card=card(f"{name}_classifier"),
    )
    return Page(session, words, preset)


def _page_of_run(experiment: str, others: Sequence[str]) -> Page:
    """Return the page of an experiment with further settings, through the parts of a run."""
    from ..run.check import check
    from ..run.pairs import pairs_of
    from ..run.study import Study
    from ..run.systems import system_of, train_system, training_data
    from ..systems.lace import LACE

    with tempfile.TemporaryDirectory() as folder:
        words = ["task=draw", "query.text=anything", "logger=csv", f"paths.output={folder}"]
        settings = check(_composed(experiment, [*words, *others]))
        study = Study.of(settings)
        system = system_of(study)
        if not isinstance(system, LACE) or settings.extra_energies:
            raise LaceError("The page draws by LACE and queries alone, received another model or energy: leave it out.")
        if not system.given:
            pairs = pairs_of(study)
            train_system(study, system, training_data(study, system, pairs), [])
    known = {preset.experiment: preset for preset in PRESETS.values()}
    first = system.schema.attributes[0]
    value = first.class_name(first.num_classes - 1) if first.kind == "discrete" else "0.7"
    preset = known.get(experiment) or Preset(experiment, f"{first.name} == {value}")
    session = Session(
        study.generator,
        system.classifier,
        experiment,
        settings.metrics.seed,
        lambda method: method_of(experiment, others, method),
        preset.identity,
    )
    return Page(session, ("--experiment", experiment, *others), preset)


def method_names() -> list[tuple[str, str]]:
    """Return the methods of the page, with their descriptions: a few first, then the others.

    Example:
        >>> method_names()[0][0]
        'lace_heun'
    """
    known = {name: text for name, text in describe("method") if name not in CHECKED_METHODS}
    return [(name, known[name]) for name in dict.fromkeys([*FIRST_METHODS, *known])]


def method_of(experiment: str, others: Sequence[str], name: str) -> Method:
    """Return a method of conf/method with the settings of an experiment.

    Args:
        experiment: name of the experiment.
        others: further settings, as on the command line.
        name: name of the method.

    Raises:
        LaceError: for an unknown method, and settings that cannot be composed.

    Example:
        >>> method_of("faces_smile", (), "annealed_hard").is_hard
        True
    """
    if name not in choices("method"):
        names = [method for method, _ in method_names()]
        raise LaceError(f"There is no method '{name}': choose one of {', '.join(names)}.{suggest(name, names)}")
    if name == STANDARD_METHOD and not any("sampler" in word for word in others):
        # As conf/sampler/heun.yaml; a page of shipped networks begins without Hydra.
        return Method(Heun())
    from hydra.utils import instantiate

    cfg = _composed(experiment, [*others, f"+method={name}"])
    return Method(instantiate(cfg.sampler), cfg.query.target == "hard")


def _composed(experiment: str, words: Sequence[str]) -> Any:
    """Return the configuration of an experiment with further settings."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from ..report.sweeps import register_resolvers

    register_resolvers()
    GlobalHydra.instance().clear()
    arguments = [f"+experiment={experiment}", *words]
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose("config", arguments)
    except (HydraException, OmegaConfBaseException) as error:
        raise LaceError(f"The settings '{' '.join(arguments)}' cannot be composed ({in_one_line(error)}).") from None


def accuracy_of(classifier_card: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracy of a classifier by attribute on pairs that it was not trained on; empty where not known.

    Args:
        classifier_card: the card of shipped weights; empty for others.
        metadata: the metadata of its file.

    Example:
        >>> accuracy_of({"accuracy": {"smile": 0.9}}, {})
        {'smile': 0.9}
    """
    return dict(classifier_card.get("accuracy") or metadata.get("accuracy") or {})
