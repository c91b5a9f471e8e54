#!/usr/bin/env python3
"""Ask the installed vLLM whether it takes the options that Tandem starts it with.

    .venv-serve/bin/python scripts/setup/vllm_check.py
    .venv-serve/bin/python scripts/setup/vllm_check.py --gpu     fails where torch sees no GPU

Reads vLLM's own command line parser, and on a GPU loads its compiled kernels. Without a GPU vLLM
has no parser of its own, so that of its CPU platform is read; its kernels need NVIDIA's driver and
are not loaded. A driver that hangs ends it after ten minutes.

Exit codes: 0 good, 1 an option is unknown, the kernels do not load, or there is no GPU.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import console  # noqa: E402
from kit.report import Check, report  # noqa: E402

# All that serving/vllm_front.py and the lines of adapters/exports/vllm.py use, with a value.
CALL = (
    "--host", "127.0.0.1", "--port", "8000", "--served-model-name", "base",
    "--max-num-seqs", "32", "--max-model-len", "4096", "--dtype", "bfloat16",
    "--quantization", "bitsandbytes", "--enable-lora", "--max-lora-rank", "16",
    "--max-loras", "2", "--lora-modules", "one=adapters/one/v1.0.0", "two=adapters/two/v1.0.0",
    "--chat-template", "chat_template.jinja",
)  # fmt: skip
LONGEST = 600  # seconds
FIX = "./setup_remote.sh --serve --force rebuilds; LD_LIBRARY_PATH should be unset"


def check_options(gpu: bool) -> Check:
    """vLLM's parser takes CALL."""
    import vllm
    from vllm import platforms

    if not gpu:
        from vllm.platforms.cpu import CpuPlatform

        platforms.current_platform = CpuPlatform()
        platforms._current_platform = CpuPlatform()
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    try:
        parser.parse_args(["model", *CALL])
    except SystemExit:
        text = f"vLLM {vllm.__version__} does not take an option of ours, see above"
        return Check("options", "fail", text, FIX)
    count = sum(word.startswith("--") for word in CALL)
    return Check("options", "ok", f"vLLM {vllm.__version__} takes all {count}")


def check_kernels() -> Check:
    """vLLM's compiled modules load; the driver must be there."""
    for name in ("vllm._C", "vllm._moe_C"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return Check("kernels", "fail", f"{name}: {error}", FIX)
    return Check("kernels", "ok", "vLLM's compiled modules load")


def look(must_be_gpu: bool) -> list[Check]:
    """One check of the options, one of GPU and kernels."""
    import torch

    gpu = torch.cuda.is_available()
    checks = [check_options(gpu)]
    if gpu:
        text = f"torch {torch.__version__} on {torch.cuda.get_device_name()}"
        return [*checks, Check("gpu", "ok", text), check_kernels()]
    text = f"torch {torch.__version__} sees no GPU; kernels not loaded"
    fix = "make gpu says why; vLLM answers on a GPU only"
    return [*checks, Check("gpu", "fail" if must_be_gpu else "skip", text, fix)]


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--gpu", action="store_true", help="fail where torch sees no GPU")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    signal.alarm(LONGEST)
    try:
        checks = look(args.gpu)
    except Exception as error:
        checks = [Check("vllm", "fail", console.first_line(error)[:300], FIX)]
    return report(checks, args.json)


if __name__ == "__main__":
    console.run(main)
