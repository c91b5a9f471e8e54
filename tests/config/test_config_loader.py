import json

import pytest

from config import loader

GOOD = """\
model:
  model_name_or_path: models/x
training:
  learning_rate: 2e-4
  num_train_epochs: 1
environments:
  local: {training: {max_steps: 5}}
  remote: {training: {max_steps: 50}}
"""

TWELVE = """\
model:
  model_name_or_pat: models/x
  dtype: bf16
lora:
  r: sixteen
  lora_alpha: -1
  lora_dropout: 2
  r: 8
quantization:
  load_in_4bit: yes please
trainng:
  learning_rate: 1
training:
  learning_rate: fast
  per_device_train_batch_size: 0
  warmup_ratio: 0.1
  optim: 3
safety:
  dry_run: 0
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "training_config.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def errors_of(path, *overrides):
    with pytest.raises(loader.ConfigError) as caught:
        loader.load(path, overrides)
    return caught.value.errors


def test_the_shipped_configuration_has_the_defaults_of_the_specification():
    c = loader.load("training_config.yaml")
    assert (c.lora.r, c.lora.lora_alpha, c.lora.lora_dropout) == (16, 32, 0.05)
    assert len(c.lora.target_modules) == 7
    q = c.quantization
    assert (q.bnb_4bit_quant_type, q.bnb_4bit_use_double_quant) == ("nf4", True)
    assert q.bnb_4bit_compute_dtype == "bfloat16"
    t = c.training
    assert (t.num_train_epochs, t.learning_rate, t.per_device_train_batch_size) == (3.0, 2e-4, 4)
    assert c.safety.dry_run is True


def test_scientific_notation_is_a_number(write):
    assert loader.load(write(GOOD)).training.learning_rate == 2e-4


def test_the_layers_win_in_order(write, monkeypatch):
    path = write(GOOD)
    assert loader.load(path).training.max_steps == 5
    monkeypatch.setenv("TANDEM_ENV", "remote")
    assert loader.load(path).training.max_steps == 50
    monkeypatch.setenv("TANDEM_TRAINING__MAX_STEPS", "7")
    assert loader.load(path).training.max_steps == 7
    assert loader.load(path, ["training.max_steps=9"]).training.max_steps == 9


def test_twelve_errors_are_said_at_once_each_with_its_line(write):
    errors = errors_of(write(TWELVE))
    lines = sorted(int(e.split(":")[1]) for e in errors)
    assert lines == [2, 3, 5, 6, 7, 8, 10, 11, 14, 15, 16, 17, 19]
    text = "\n".join(errors)
    assert "did you mean model_name_or_path?" in text
    assert "did you mean training?" in text
    assert "occurs twice (first in line 5)" in text
    assert "'fast' is not a valid number" in text


def test_a_rule_between_two_keys_is_said_in_one_line(write):
    errors = errors_of(write("training: {eval_steps: 30, save_steps: 100}"))
    assert len(errors) == 1 and "multiple of eval_steps (30)" in errors[0]


def test_a_rule_between_two_sections_names_the_file_alone():
    errors = errors_of("rlhf.yaml", "data.max_prompt_length=100000")
    assert len(errors) == 1 and "rlhf.yaml: data.max_prompt_length (100000) leaves" in errors[0]


def test_what_is_wrong_for_the_other_machine_is_said_on_this_one(write):
    text = "environments: {remote: {training: {max_stepz: 3}}, local: {training: {max_steps: 5}}}"
    (error,) = errors_of(write(text))
    assert "training.max_stepz: unknown key; did you mean max_steps?" in error


def test_a_wrong_variable_and_a_wrong_set_are_named(write, monkeypatch):
    monkeypatch.setenv("TANDEM_TRAINING__MAX_STEPS", "[3")
    monkeypatch.setenv("TANDEM_TRAINING__LERNING_RATE", "1e-4")
    errors = errors_of(write(GOOD), "lora.rank=8", "nonsense")
    assert any(e.startswith("TANDEM_TRAINING__LERNING_RATE: ") for e in errors)
    assert "TANDEM_TRAINING__MAX_STEPS: the value is not YAML; quote it" in errors
    assert any(e.startswith("--set lora.rank=8: lora.rank: unknown key") for e in errors)
    assert any(e.startswith("--set nonsense: not KEY=VALUE") for e in errors)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "training_config.yaml:1: not YAML"),
        ("- 1\n- 2\n", "sections expected"),
        ("training:\n\tlearning_rate: 1\n", "training_config.yaml:2: not YAML"),
        ("environments: {lokal: {}}", "did you mean local?"),
        ("environments: {local: 3}", "environments.local holds sections"),
        ("training: !foo bar", "training_config.yaml:1: not YAML"),
        ("c: &c {a: 1}\ntraining:\n  <<: *c\n", "training_config.yaml:3: not YAML"),
        ("training: {max_steps: 2026-99-99}", "a value is not YAML: month must be in"),
        ("training: &x [*x]", "nested without end"),
        pytest.param("training: " + "[" * 3000, "nested without end", marks=pytest.mark.slow),
        ("training: {max_steps: 12:30:45}", "is not a valid integer"),
        ("training: {max_steps: 010}", "is not a valid integer"),
    ],
)
@pytest.mark.slow
def test_broken_files_are_one_line(write, command, text, expected):
    done = command("config_loader.py", "--config", write(text))
    assert done.returncode == 2
    assert expected in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_file_that_is_not_utf8_is_named(tmp_path, command):
    path = tmp_path / "training_config.yaml"
    path.write_bytes(b"model:\n  dtype: \xff\xfe\n")
    done = command("config_loader.py", "--config", path)
    assert done.returncode == 2 and "not UTF-8" in done.stderr


def test_a_missing_file_names_the_nearest(command):
    done = command("config_loader.py", "--config", "trainig_config.yaml")
    assert done.returncode == 2 and "configs/training_config.yaml" in done.stderr


def test_json_is_one_object_with_every_section(command):
    done = command("config_loader.py", "--json", "--set", "lora.r=8")
    assert json.loads(done.stdout)["lora"]["r"] == 8


@pytest.mark.parametrize("kind", sorted(loader.KINDS))
def test_every_shipped_configuration_is_valid(kind):
    loader.load(f"{kind}.yaml")


def test_every_parameter_of_the_training_configuration_is_commented():
    text = (loader.paths.ROOT / "configs" / "training_config.yaml").read_text()
    body = [line.strip() for line in text.splitlines()]
    comments = sum(line.startswith("#") for line in body)
    parameters = [line for line in body if line and not line.startswith("#") and ": " in line]
    assert comments > 0.8 * len(parameters)


@pytest.mark.parametrize("word", ["no", "No", "off"])
def test_a_word_is_a_word_where_words_are_wanted_and_a_boolean_where_those_are(write, word):
    text = f"training:\n  packing: {word}\n  load_best_model_at_end: false\n"
    text += "  early_stopping_patience: null\n  eval_strategy: 'no'\n"
    assert loader.load(write(text)).training.packing is False
    plain = loader.load(write(text.replace("'no'", "no")))
    assert plain.training.eval_strategy == "no"
    with pytest.raises(loader.ConfigError, match="optim"):
        loader.load(write(f"training:\n  optim: {word}\n"))


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "more than 20,000 values"),
        ("training: {report_to: '" + "x" * (30 << 20) + "'}", "larger than 1.0 MB"),
        ("training: " + "[" * 400 + "]" * 400, "nested without end"),
        ("training: &t {a: *t}", "nested without end"),
    ],
)
def test_a_file_that_would_fill_time_or_memory_is_one_line(write, text, expected):
    with pytest.raises(loader.ConfigError, match=expected):
        loader.load(write(text))
