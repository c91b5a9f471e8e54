"""`make rehearse FULL=1`: bring rows and config.json to the host, and rehearse at full size there.

Rows are those of RAW, else of this checkout's data/processed, else generated. Weights never travel.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from base_model import locate, random_weights
from config import options
from kit import console, json_files, paths
from workflow import full_report, trip_stages
from workflow.stages import Stage
from workflow.trip import REHEARSAL, Trip, bad_answer

SOURCE = "data/synthetic/full-model"  # travels up with the synthetic data


def bring_rows(trip: Trip, stage: Stage) -> None:
    """The rows of the real training; those of RAW, or generated, where there are none."""
    here = paths.workdir() / "data" / "processed"
    if trip.raw or not (here / "train_sft.jsonl").is_file():
        trip_stages.make_data(trip, stage)
        return
    out = trip.laptop / "data" / "processed"
    shutil.copytree(here, out, dirs_exist_ok=True)
    stage.set_fact(f"{trip_stages.row_counts(out)} of data/processed")


def bring_model(trip: Trip, stage: Stage) -> None:
    """config.json and tokenizer of the configured model; a tokenizer of the rows where it has none.

    Where the model is not on this machine, the host looks among its own.
    """
    sets = options.set_words(trip.overrides)
    # In an environment: this process may be any Python, without the packages that read YAML.
    words = trip.local("local", "config_loader.py", "--json", *sets)
    model = stage.json(words, env=trip.env)["model"]
    folder = locate.find(model["model_name_or_path"], model["model_revision"])
    if folder is None:
        stage.set_fact(f"{model['model_name_or_path']} is not here: the host looks for its own")
        return
    out = trip.laptop / SOURCE
    out.mkdir(parents=True)
    shutil.copyfile(folder / "config.json", out / "config.json")
    random_weights.copy_tokenizer(folder, out)
    note = ""
    if not any((out / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        _train_tokenizer(trip, stage, out)
        note = "; it has no tokenizer: one of the rows stands for it, and lengths are its"
    stage.set_fact(f"config.json of {paths.show(folder)}{note}")


def _train_tokenizer(trip: Trip, stage: Stage, out: Path) -> None:
    """Put the tokenizer of a miniature of the model beside its config.json."""
    rows = trip.laptop / "data" / "processed" / "train_sft.jsonl"
    made = trip.laptop / "data" / "synthetic" / "miniature"
    words = ["--data", rows, "--out", made, "--like", out, "--steps", 1, "--json"]
    stage.run(trip.local("remote", "build_miniature.py", *words), env=trip.env)
    random_weights.copy_tokenizer(made, out)
    shutil.rmtree(made)


def rehearse(trip: Trip, stage: Stage) -> None:
    """Ten steps at full size on the host; the facts go to trip.result."""
    home = paths.workdir() if trip.local_folder else f"../{trip.home_dir}"
    words = ["--json", "--source", SOURCE, "--home", home]
    words += ["--gpu", trip.gpu] if trip.gpu else []
    words += options.set_words(trip.overrides)
    find_rate(trip, stage)
    facts = stage.json(trip.remote("rehearse_full.py", *words), env=trip.host_env)
    try:
        json_files.check_size(facts, 6, 1000)
        trip.result["full"] = full_report.checked(facts)
    except ValueError as error:
        raise bad_answer(trip.shown_host(), f"holds {error}") from None
    stage.set_fact(f"{facts['steps']} steps of the longest rows")


STAGES = (
    ("set-up", trip_stages.set_up),
    ("data", bring_rows),
    ("model", bring_model),
    ("sync up", trip_stages.sync_up),
    ("validate", trip_stages.validate),
    ("full size", rehearse),
)


def run_all(trip: Trip) -> None:
    """The stages of a rehearsal at full size, in order."""
    for name, work in STAGES:
        with trip.stages.stage(name) as stage:
            work(trip, stage)


def find_rate(trip: Trip, stage: Stage) -> None:
    """What an hour of the host costs: RATE, else hosts.NAME.rate of configs/jobs.yaml."""
    words = trip.local("local", "config_loader.py", "--config", "jobs.yaml", "--json")
    section = stage.json(words, env=trip.env)["hosts"].get(trip.host) or {}
    trip.rate = trip.rate or section.get("rate")


def show_result(trip: Trip, seconds: float) -> None:
    """What was measured, beside the estimate, and where the report is."""
    facts = trip.result["full"]
    console.result("")
    for line in full_report.lines(facts, trip.rate):
        console.result(line)
    file = REHEARSAL / "full-report.json"
    report = {"full": facts, "rate": trip.rate, "seconds": seconds, "stages": trip.stages.done}
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.result(f"report   {paths.show(file)}")
    console.result(f"took     {console.duration(seconds)}")
