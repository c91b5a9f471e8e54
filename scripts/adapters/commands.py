"""The subcommands of checkpoint_manager.py: options, and what each prints.

Each handler takes (adapters folder, args) and returns (object for --json, lines for people).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from adapters import version_store
from adapters.names import BUMPS
from kit import console, paths

CommandResult = tuple[Any, list[str]]


def add_all(subparsers) -> None:
    """Add every subcommand; `args.run` is its handler."""

    def add(name: str, handler, reference: bool = True):
        parser = subparsers.add_parser(
            name, help=handler.__doc__.splitlines()[0], description=handler.__doc__
        )
        if reference:
            parser.add_argument("reference", metavar="NAME@VERSION")
        parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
        parser.set_defaults(run=handler)
        return parser

    p = add("register", register, reference=False)
    p.add_argument("run_folder", metavar="RUN", help="a run id, a run's folder, or a PEFT folder")
    p.add_argument("--name", required=True, help="lower-case letters, digits, '-', '_', '.'")
    p.add_argument("--bump", choices=BUMPS, help="default: by what changed since the last version")
    p.add_argument("--force", metavar="REASON", help="register it though the gate says it is worse")
    p.add_argument("--report", metavar="FILE", help="an evaluation; default RUN/report.json")
    p = add("list", list_versions, reference=False)
    p.add_argument("name", nargs="?", metavar="NAME", help="only this adapter's versions")
    add("show", show)
    p = add("verify", verify)
    p.add_argument("--base", metavar="PATH", help="compare with the base model in this folder")
    p = add("pack", pack)
    p.add_argument("--output", required=True, metavar="FILE", help="the zip to write")
    p = add("unpack", unpack, reference=False)
    p.add_argument("archive", metavar="FILE", help="a zip that `pack` wrote")
    p = add("diff", diff)
    p.add_argument("other", metavar="OTHER@VERSION")
    p = add("retire", retire)
    p.add_argument("--reason", default="", metavar="TEXT", help="kept beside the version")
    p.add_argument("--undo", action="store_true", help="bring a retired version back")
    p = add("load", load)
    add_base_options(p)
    p = add("export", export)
    p.add_argument("--format", required=True, choices=("merged", "gguf", "ollama"))
    p.add_argument("--output", required=True, metavar="PATH", help="the folder or file to make")
    p.add_argument("--outtype", default="auto", help="gguf: f32, f16, bf16, q8_0; default auto")
    add_base_options(p)
    p = add("canary", canary)
    p.add_argument("--prompts", metavar="FILE", help="one prompt a line; default: five fixed ones")
    p.add_argument("--max-new-tokens", type=int, default=32, metavar="N")
    add_base_options(p)


def add_base_options(parser) -> None:
    """The options of every command that loads base and adapter."""
    parser.add_argument("--base", metavar="PATH", help="where the base model lies here")
    parser.add_argument("--any-base", action="store_true", help="only warn if it is another base")
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), help="default: the best here")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="default: that of the files"
    )


def details(problem: console.Problem) -> dict[str, Any]:
    """{"file"} where the problem names one."""
    return {"file": problem.file} if hasattr(problem, "file") else {}


def register(root: Path, args) -> CommandResult:
    """Make a completed run the next version of NAME.

    The gate compares its report.json with the best version on the same evaluation; a drop beyond
    the bootstrap interval needs --force REASON, and the reason is kept in card.json.
    """
    if args.force is not None and not args.force.strip():
        raise console.Misuse("--force needs a reason", '--force "smaller, and fast enough"')
    from adapters import register as registration

    options = {"bump": args.bump, "force": args.force, "report": args.report}
    version = registration.register(root, args.run_folder, args.name, **options)
    card = version.card
    outcome, bump = card["gate"], card["bump"]
    against = f" against {outcome['compared_with']}" if "compared_with" in outcome else ""
    console.note(f"gate: {outcome['status']}{against}; {bump['kind']} version: {bump['why']}")
    result = {"ok": True, "reference": version.reference, "folder": str(version.folder)}
    return result | {"gate": outcome, "bump": bump}, [version.reference]


def facts(version) -> dict[str, Any]:
    """One version as `list --json` gives it; {"reference", "error"} where its card is damaged."""
    from adapters import gate

    try:
        card = version.card
    except console.Problem as problem:
        return {"reference": version.reference, "error": str(problem)}
    scored = gate.score((card.get("evaluation") or {}).get("metrics") or {})
    return {
        "reference": version.reference,
        "created": card["created"],
        "base": card["base"]["name"],
        "r": card["adapter"]["r"],
        "score": {"metric": scored[0], "value": scored[1]} if scored else None,
        "gate": card["gate"]["status"],
        "retired": version.retired,
        "bytes": version.bytes,
    }


def list_versions(root: Path, args) -> CommandResult:
    """Every version, with its base, score and gate."""
    if args.name and not version_store.versions(root, args.name):
        version_store.resolve(root, args.name)  # says which names there are
    chosen = [args.name] if args.name else version_store.all_names(root)
    rows = [facts(version) for name in chosen for version in version_store.versions(root, name)]
    lines = [_row(row) for row in rows]
    empty = "no versions yet; register a run: checkpoint_manager.py register RUN --name NAME"
    return {"versions": rows}, lines or [empty]


def _row(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['reference']:<28} DAMAGED  {row['error']}"
    state = "retired" if row["retired"] else row["gate"]
    facts = f"r {row['r']:<4} {row['base']:<36} {_score(row['score']):<14} {state}"
    return f"{row['reference']:<28} {facts}"


def _score(score: dict[str, Any] | None) -> str:
    return f"{score['metric']} {score['value']:.4f}" if score else "-"


def show(root: Path, args) -> CommandResult:
    """One version: its card in words, and how vLLM serves it."""
    from adapters.exports import vllm

    version = version_store.resolve(root, args.reference)
    card = version.card
    run, base, lora, outcome = card["run"], card["base"], card["adapter"], card["gate"]
    lines = [
        f"{version.reference}  {'RETIRED' if version.retired else outcome['status']}",
        f"  folder    {paths.show(version.folder)}",
        f"  created   {card['created']} from run {run['id']} ({run.get('step', '?')} steps)",
        f"  base      {base['name']}  revision {base.get('revision') or 'not recorded'}",
        f"  adapter   r {lora['r']}, alpha {lora['lora_alpha']}, {lora['parameters']:,} parameters",
        f"  modules   {_listed(lora['target_modules'])}",
        f"  size      {console.size(version.bytes)} in {len(card['files'])} files",
    ]
    if version.retired:
        lines.append(f"  retired   {version.retired['reason']}")
    if outcome.get("reason"):
        lines.append(f"  forced    {outcome['reason']}")
    measured = card.get("evaluation") or {"metrics": {}}
    for name, m in measured["metrics"].items():
        before = (measured.get("base") or {}).get(name)
        base = f"   base {before['value']:.4f}" if before else ""
        lines.append(f"  {name:<12} {m['value']:.4f} ({m['low']:.4f}-{m['high']:.4f}){base}")
    lines.append(f"  vLLM      {vllm.command(version)}")
    facts = {"folder": str(version.folder), "retired": version.retired}
    return facts | {"vllm": vllm.command(version)} | card, lines


def _listed(modules: list[str] | str | None) -> str:
    return ", ".join(sorted(modules)) if isinstance(modules, list) else str(modules)


def verify(root: Path, args) -> CommandResult:
    """Compare a version with its card; exit 1 at the first difference, naming the file."""
    from adapters import verification

    version = version_store.resolve(root, args.reference)
    sound = verification.verify(version, Path(args.base) if args.base else None)
    line = (
        f"ok    {sound['reference']}  {sound['files']} files, {console.size(sound['bytes'])}, "
        f"r {sound['r']}, base: {sound['base']}"
    )
    return {"ok": True} | sound, [line]


def pack(root: Path, args) -> CommandResult:
    """Write a version as one zip: the same version gives the same bytes, anywhere."""
    from adapters import pack as packing

    version = version_store.resolve(root, args.reference)
    digest = packing.pack(version, args.output)
    size = Path(args.output).stat().st_size
    result = {"reference": version.reference, "file": args.output, "sha256": digest, "bytes": size}
    return {"ok": True} | result, [f"{digest}  {args.output}"]


def unpack(root: Path, args) -> CommandResult:
    """Verify a zip and publish the version in it; publish nothing if anything is wrong."""
    from adapters import pack as packing

    version, new = packing.unpack(root, args.archive)
    console.note(f"{version.reference} {'unpacked' if new else 'was here already, the same'}")
    return {"ok": True, "reference": version.reference, "new": new}, [version.reference]


def diff(root: Path, args) -> CommandResult:
    """Say what differs between two versions: base, data, configuration, metrics, weights."""
    from adapters import diff as difference

    old, new = (version_store.resolve(root, r) for r in (args.reference, args.other))
    differences = difference.diff(old, new)
    lines = [f"{differences['old']} -> {differences['new']}"]
    for key, (before, after) in differences["card"].items():
        lines.append(f"  {key:<40} {_short(before)} -> {_short(after)}")
    lines += [f"  file {name} differs" for name in differences["files"]]
    for row in differences["weights"][:5]:
        lines.append(
            f"  update of {row['module']}: norm {row['old']:.4g} -> {row['new']:.4g}, "
            f"apart by {row['difference']:.4g}"
        )
    return differences, lines if len(lines) > 1 else [*lines, "  no difference"]


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def retire(root: Path, args) -> CommandResult:
    """Take a version out of @latest and of ranges; its number still loads it."""
    from adapters import names
    from adapters import retire as retirement

    version = version_store.resolve(root, args.reference)
    if names.split(args.reference)[1] != version.version:
        raise console.Misuse(
            f"{args.reference} means {version.reference} now", "name the version that you retire"
        )
    retirement.restore(version) if args.undo else retirement.retire(version, args.reason)
    state = "back" if args.undo else "retired"
    result = {"ok": True, "reference": version.reference, "retired": version.retired}
    return result, [f"{version.reference} {state}"]


def _loading(args) -> dict[str, Any]:
    """The options of add_base_options as load.load takes them."""
    named = {"base_path": args.base, "device": args.device, "dtype": args.dtype}
    return named | {"any_base": args.any_base}


def load(root: Path, args) -> CommandResult:
    """Really load base and adapter, and say parameters and device."""
    from adapters import load

    version = version_store.resolve(root, args.reference)
    model, _, _ = load.load(version, **_loading(args))
    facts = load.describe(model)
    line = (
        f"ok    {version.reference}  {facts['parameters']:,} parameters "
        f"({facts['adapter_parameters']:,} of the adapter), {facts['dtype']} on {facts['device']}"
    )
    return {"ok": True, "reference": version.reference} | facts, [line]


def export(root: Path, args) -> CommandResult:
    """Make what other programs take: merged safetensors, a GGUF file, an Ollama model.

    gguf needs llama.cpp's converter: its checkout in $LLAMA_CPP or ~/llama.cpp. vLLM needs no
    export: `show` prints the command.
    """
    from adapters.exports import gguf, merged, ollama

    version, output = version_store.resolve(root, args.reference), Path(args.output)
    if args.format == "gguf":
        facts = gguf.export(version, output, args.outtype, **_loading(args))
    else:
        make = merged.export if args.format == "merged" else ollama.export
        facts = make(version, output, **_loading(args))
    console.note(f"logits differ from the adapter's by {facts['logits_relative_error']:.1g}")
    if args.format == "ollama":
        console.note(f"next: cd {args.output} && ollama create {version.name} -f Modelfile")
    if args.format == "merged":
        console.note(f"vLLM: vllm serve {shlex.quote(args.output)}")
    return {"ok": True} | facts, [str(output)]


def canary(root: Path, args) -> CommandResult:
    """Let base and adapter answer fixed prompts; exit 1 if the adapter changes nothing."""
    from adapters import canary as canaries

    version = version_store.resolve(root, args.reference)
    prompts = canaries.prompts_of(args.prompts)
    outcome = canaries.canary(version, prompts, args.max_new_tokens, **_loading(args))
    lines = []
    for row in outcome["prompts"]:
        lines += [row["prompt"], f"  base     {row['base']!r}", f"  adapter  {row['adapter']!r}"]
    lines.append(
        f"ok    {version.reference}  logits change by {outcome['change']:.3g}, "
        f"{outcome['different_answers']} of {len(outcome['prompts'])} answers differ"
    )
    return outcome, lines
