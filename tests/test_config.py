"""The experiment config: loading, overriding, checking, saving, comparing."""

import dataclasses
import functools
import json
import pathlib

import pytest

from asyncthink_jax import config as config_lib
from asyncthink_jax import sections
from asyncthink_jax.config import ConfigError, load
from asyncthink_jax.config_rules import RANGES
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks import TASKS, Countdown

MODEL = "ModelConfig(vocab_size=0, layers=3, width=128, heads=4, kv_heads=2, head_dim=32, mlp_width=384)"
EXPERIMENT = f'''"""A lab note."""
from asyncthink_jax.config import Config, RLConfig
from asyncthink_jax.model.model_config import ModelConfig, RopeScaling


def get_config():
    return Config(name="here", model={MODEL}, rl=RLConfig(tau=0.7))
'''


def with_task(task: str) -> str:
    """The experiment with another task than the default."""
    return EXPERIMENT.replace("rl=", f"task={task}, rl=").replace(
        "\n\n\n", "\nfrom asyncthink_jax.tasks import Countdown\n\n\n"
    )


@pytest.fixture
def experiment(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    return path


def error_line(*arguments) -> str:
    """The one line that `load` complains with."""
    with pytest.raises(ConfigError) as error:
        load(*arguments)
    line = str(error.value)
    assert line.strip() and len(line.splitlines()) == 1
    return line


def test_an_experiment_file_gives_its_config(experiment):
    config = load(experiment)
    assert config.name == "here"
    assert config.rl.tau == 0.7
    assert config.model.layers == 3


def test_a_field_that_the_experiment_does_not_name_has_its_default(experiment):
    assert load(experiment).pool == config_lib.PoolConfig()


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("name=other", "other"),
        ("seed=3", 3),
        ("paradigm=sequential", "sequential"),
        ("rl.learning_rate=1e-4", 1e-4),
        ("rl.learning_rate=1", 1.0),
        ("rl.std_normalise=true", True),
        ("rl.std_normalise=False", False),
        ("sft.number_init=0", False),
        ("eval.temperatures=0.5", (0.5,)),
        ("eval.temperatures=(0.7, 1, 0)", (0.7, 1.0, 0.0)),
        ("model.layers=2", 2),
        ("model.dtype=bfloat16", "bfloat16"),
        ("model.rope_scaling.factor=8", 8.0),
        ("task.max_number=30", 30),
        ("task.demonstrations=oracle", "oracle"),
        ("data.skip_bad=true", True),
    ],
)
def test_an_override_is_parsed_by_the_type_of_its_field(experiment, item, value):
    config = load(experiment, [item])
    path = item.partition("=")[0]
    assert sections.get(config, path) == value
    assert type(sections.get(config, path)) is type(value)


def test_an_override_leaves_everything_else_alone(experiment):
    config = load(experiment)
    changed = load(experiment, ["rl.tau=0.9"])
    assert dataclasses.replace(changed, rl=dataclasses.replace(changed.rl, tau=0.7)) == config


def test_the_last_override_of_a_field_counts(experiment):
    assert load(experiment, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("rl.learning_rat=1", "did you mean 'rl.learning_rate'"),
        ("rl.slots=2", "did you mean 'rollout.slots'"),
        ("sead=2", "did you mean 'seed'"),
        ("qqqqqq=2", "no field 'qqqqqq'"),
        ("rl.tau=high", "'rl.tau': 'high' is not a number"),
        ("sft.rows=1.5", "'1.5' is not a whole number"),
        ("rl.std_normalise=maybe", "'maybe' is not true or false"),
        ("paradigm=asink", "one of async, sequential, parallel; did you mean 'async'"),
        ("model.dtype=float33", "did you mean 'float32'"),
        ("eval.temperatures=0.7,warm", "'warm' is not a number"),
        ("rl=2", "'rl' is a section"),
        ("rl.tau.x=2", "tau is a value"),
        ("rl.tau", "not of the form section.field=value"),
        ("rl.tau=2", "'rl.tau' is 2.0, must be from 0.001 to 1"),
        ("rl.tau=nan", "'rl.tau': 'nan' is not a finite number"),
        ("eval.temperatures=0.7,inf", "'eval.temperatures': 'inf' is not a finite number"),
        ("rl.kl=1e39", "'rl.kl': '1e39' is not a finite number (of float32)"),
        ("task.split_seed=-1", "'task.split_seed' is -1, must be at least 0"),
        ("model.rope_theta=-1", "'model.rope_theta' is -1.0, must be at least 1e-06"),
        ("model.norm_eps=0", "'model.norm_eps' is 0.0, must be from 1e-30 to 1"),
        ("rl.kl=1e999", "'rl.kl': '1e999' is not a finite number"),
        ("rollout.slots=99999999999999999999", "'rollout.slots': '99999999999999999999' is not a whole number"),
        ("sft.skip_nonfinite=-1", "'sft.skip_nonfinite' is -1, must be at least 0"),
        ("seed=-1", "'seed' is -1, must be from 0 to 2147483647"),
        ("sft.b2=1", "'sft.b2' is 1.0, must be from 0 to 0.999999"),
        ("rl.grad_clip=0", "'rl.grad_clip' is 0.0, must be at least 1e-06"),
        ("model.lora.rank=4", "model.lora.rank > 0 needs `pretrained`"),
        ("mesh.cpu_devices=0", "'mesh.cpu_devices' is 0, must be"),
        ("rl.group_size=1", "at least 2"),
        ("model.rope_scaling=8", "'model.rope_scaling' is a section; name one of its fields: factor, "),
        ("model.rope_scaling.facter=8", "did you mean 'model.rope_scaling.factor'"),
        ("model.rope_scaling.factor=0.5", "'model.rope_scaling.factor' is 0.5, must be at least 1"),
        ("model.rope_scaling.low_frequency_factor=4", "must be below high_frequency_factor (4.0)"),
        ("pool.agents=0", "at least 1"),
        ("model.kv_heads=3", "model.heads (4) must be a multiple of model.kv_heads (3)"),
        ("rl.row_length=100", "must hold the longest trace"),
        ("sft.microbatches=3", "multiple of sft.microbatches (3)"),
        ("rl.optimizer_steps=3", "multiple of rl.optimizer_steps (3)"),
        ("mesh.fsdp=-1", "only one axis can be -1"),
        ("mesh.fsdp=0", "mesh.fsdp is 0"),
        ("task.max_number=4", "4 distinct numbers don't fit between 2 and 4"),
        ("task.max_numbr=30", "did you mean 'task.max_number'"),
        ("task.in_order=2", "'task.in_order' is 2.0, must be from 0 to 1"),
        ("task.test_problems=0", "'task.test_problems' is 0, must be at least 1"),
        ("task.demonstrations=orcale", "did you mean 'oracle'"),
        ("task.name=countdwn_tiny", "'task.name': 'countdwn_tiny' is not one of countdown_tiny"),
        ("task.name=countdwn_tiny", "did you mean 'countdown_tiny'"),
        ("task=countdown_tiny", "'task' is a section; name one of its fields: name, "),
        ("eval.temperatures=-1", "cannot be negative"),
        ("rollout.top_k=-1", "'rollout.top_k' is -1, must be at least 0"),
        ("rollout.top_p=0", "'rollout.top_p' is 0.0, must be from 0.001 to 1"),
        ("rollout.min_p=2", "'rollout.min_p' is 2.0, must be from 0 to 1"),
        ("rollout.repetition_penalty=0.9", "'rollout.repetition_penalty' is 0.9, must be from 1 to 100"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_remedy(experiment, item, says):
    assert says in error_line(experiment, [item])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "has no function get_config()"),
        ("def get_config():\n    return 3\n", "returned int, not Config"),
        ("def get_config(:\n", "SyntaxError"),
        ("import not_a_module_at_all\n", "ModuleNotFoundError"),
        (EXPERIMENT.replace("tau=0.7", "tou=0.7"), "RLConfig has no field 'tou'; did you mean 'tau'"),
        (
            EXPERIMENT.replace("mlp_width=384", "mlp_width=384, rope_scaling=RopeScaling(facter=8)"),
            "RopeScaling has no field 'facter'; did you mean 'factor'",
        ),
        (EXPERIMENT.replace("tau=0.7", "tau='high'"), "'rl.tau': 'high' is not a number"),
        (EXPERIMENT.replace("tau=0.7", "rows=2.5"), "'rl.rows': 2.5 is not a whole number"),
        (EXPERIMENT.replace("tau=0.7", "optimizer='adam'"), "did you mean 'adamw'"),
        (EXPERIMENT.replace('name="here", ', ""), "missing 1 required"),
        (with_task("Countdown(max_numbr=30)"), "Countdown has no field 'max_numbr'; did you mean 'max_number'"),
        (with_task('Countdown(name="countdown_tny")'), "did you mean 'countdown_tiny'"),
        (with_task("Countdown(max_number=3.5)"), "'task.max_number': 3.5 is not a whole number"),
        (with_task("'countdown_tiny'"), "'task': 'countdown_tiny' is not a Task"),
    ],
)
def test_a_wrong_experiment_file_is_one_line(tmp_path, text, says):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    assert says in error_line(path)


FLOATS = [
    path for path, hint in sections.leaves(config_lib.Config(name="", model=ModelConfig(*[8] * 7))) if hint is float
]


@pytest.mark.parametrize("text", ["inf", "-Infinity", "nan"])
def test_no_field_takes_a_number_that_is_not_finite(experiment, text):
    assert len(FLOATS) > 40
    for path in FLOATS:
        assert f"{path!r}: {text!r} is not a finite number" in error_line(experiment, [f"{path}={text}"])
        saved = json.loads(config_lib.to_json(load(experiment)))
        section, _, name = path.rpartition(".")
        functools.reduce(lambda at, key: at[key], section.split("."), saved)[name] = float(text)
        with pytest.raises(
            ConfigError, match=rf"^saved config: {path} is -?(inf|nan), not a finite number \(of float32\)$"
        ):
            config_lib.from_json(json.dumps(saved))


def test_a_missing_experiment_file_is_one_line(tmp_path):
    assert "not found" in error_line(tmp_path / "nowhere.py")


def test_a_saved_config_comes_back_equal(experiment, tmp_path):
    config = load(experiment, ["eval.temperatures=0.5,0", "rl.kl=0.01", "model.rope_scaling.factor=8"])
    assert config_lib.from_json(config_lib.to_json(config)) == config
    saved = tmp_path / "config.json"
    saved.write_text(config_lib.to_json(config))
    assert load(saved) == config


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (('"tau"', '"tou"'), "no field 'rl.tou'; did you mean 'tau'"),
        (('"seed": 0', '"seed": "0"'), "seed is '0', not a whole number"),
        (("{", "", 1), "is no JSON"),
        (('"max_number"', '"max_numbr"'), "no field 'task.max_numbr'; did you mean 'max_number'"),
        (('"name": "countdown_tiny"', '"name": "countdown_tny"'), "task.name 'countdown_tny' is not one of"),
        (('"name": "countdown_tiny"', '"name": ["x"]'), "task.name ['x'] is not one of"),
    ],
)
def test_a_saved_config_that_does_not_fit_is_one_line(experiment, tmp_path, edit, says):
    saved = tmp_path / "config.json"
    saved.write_text(config_lib.to_json(load(experiment)).replace(*edit))
    assert says in error_line(saved)


def test_a_resume_lists_what_changes_the_result(experiment):
    saved = load(experiment)
    now = load(experiment, ["rl.learning_rate=1e-4", "model.layers=2"])
    assert config_lib.differences(saved, now) == [
        "model.layers: saved 3, now 2",
        "rl.learning_rate: saved 0.0003, now 0.0001",
    ]


def test_a_resume_may_change_what_is_only_watched_and_what_only_memory_depends_on(experiment):
    free = ["name=b", "eval.samples=4", "checkpoint.keep=9", "mesh.fsdp=2", "rl.microbatches=2", "rollout.slots=3"]
    assert config_lib.differences(load(experiment), load(experiment, free)) == []


@pytest.mark.parametrize("name", TASKS)
def test_every_number_has_a_range(experiment, name):
    config = load(experiment, [f"task.name={name}"])
    checked = {path for path, _, _ in RANGES} | {f"task.{name}" for name in config.task.ranges}
    numbers = {path for path, hint in sections.leaves(config) if hint in (int, float)}
    assert checked <= numbers
    assert {path for path in numbers - checked if not path.startswith("mesh.")} == set()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_chosen_by_its_name_saved_and_loaded(experiment, name):
    config = load(experiment, [f"task.name={name}", "task.test_problems=7"])
    assert type(config.task) is TASKS[name] and config.task.name == name and config.task.test_problems == 7
    assert config_lib.from_json(config_lib.to_json(config)) == config


def test_the_name_of_the_task_that_is_there_already_changes_nothing(experiment):
    assert load(experiment, ["task.max_number=30", "task.name=countdown_tiny"]).task == Countdown(max_number=30)


def test_a_saved_config_from_before_there_were_other_tasks_loads(experiment):
    saved = json.loads(config_lib.to_json(load(experiment)))
    del saved["data"]
    names = "name numbers min_number max_number max_target n_solutions validation_problems test_problems split_seed "
    names += "demonstrations worker_keep few_share in_order enough answer_weight hit_weight self_search"
    saved["task"] = {name: saved["task"][name] for name in names.split()}
    assert config_lib.from_json(json.dumps(saved)) == load(experiment)


def test_a_resume_with_another_task_is_refused_by_its_name(experiment, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(Countdown):
        name: str = "other"
        depth: int = 3

    monkeypatch.setitem(TASKS, "other", Other)
    now = load(experiment, ["task.name=other"])
    assert config_lib.differences(load(experiment), now) == ["task.name: saved 'countdown_tiny', now 'other'"]
    assert "did you mean 'task.depth'" in error_line(experiment, ["task.name=other", "task.dept=2"])
    assert "no field 'task.depth'" in error_line(experiment, ["task.depth=2"])


@pytest.mark.parametrize("item", ["top_k=5", "top_p=0.9", "min_p=0.1", "repetition_penalty=1.1", "constrain=true"])
def test_options_of_the_sampling_leave_the_models_distribution(experiment, item):
    assert load(experiment).rollout.from_whole_distribution
    assert not load(experiment, [f"rollout.{item}"]).rollout.from_whole_distribution
