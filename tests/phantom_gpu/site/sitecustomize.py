"""Python's side of the stand-in GPU: true values where a kernel's result steers the program.

Python imports this module at its start. It changes a few functions of the pinned libraries when
they are imported; a line that is no longer there ends the process, so that a new version is seen.

    PHANTOM_PADDED=0   attention masks are all ones (default 1: rows of different lengths)
    PHANTOM_GLOO=1     several processes: gloo moves what NCCL would
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.util
import inspect
import os
import sys

PADDED = os.environ.get("PHANTOM_PADDED", "1") == "1"
GLOO = os.environ.get("PHANTOM_GLOO") == "1"
TOKEN = 65  # what every generated token is
TRAINED_BYTE = 0x3C  # 0x3c3c is 0.011 in bfloat16, 0x3c3c3c3c is 0.011 in float32
TRAINED = 0.011


def fill(tensor, byte: int) -> None:
    """Write one byte all over a contiguous tensor of a stand-in card."""
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    storage = tensor.untyped_storage()
    if tensor.is_cuda and storage.size():
        ctypes.memset(storage.data_ptr(), byte, storage.size())


def optimizers(module) -> None:
    """A step writes other numbers into everything that it trains, for its kernels do not run."""
    steps: dict[int, int] = {}

    def after(optimizer, *_):
        steps[id(optimizer)] = count = steps.get(id(optimizer), 0) + 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    fill(parameter.data, TRAINED_BYTE - count % 3)

    module.register_optimizer_step_post_hook(after)


def supervised_loss(module) -> None:
    """TRL's chunked loss counts its tokens on the card."""
    count = (
        "_given = shift_labels if shift_labels is not None else labels[..., 1:]\n"
        "    _count = int((_given.cpu() != -100).sum())\n    "
    )
    replace_in(module, module._chunked_cross_entropy_loss, {
        "n_padded = (n_valid_tensor / chunk_size).ceil().clamp(min=1).to(torch.int64) * chunk_size":
            f"{count}n_padded = max(1, -(-_count // chunk_size)) * chunk_size",
    })  # fmt: skip


def replace_in(module, function, lines: dict[str, str]) -> None:
    """Define a function of a module again with some of its lines replaced."""
    text = inspect.getsource(function)
    for before, after in lines.items():
        if before not in text:
            raise SystemExit(f"phantom_gpu: {module.__name__} has no line {before!r} any more")
        text = text.replace(before, after)
    exec(compile(text, f"{module.__file__}:phantom", "exec"), module.__dict__)


def masks(module) -> None:
    """Whether a batch has padding is a comparison on the card."""
    module.fast_all = lambda mask: not PADDED


def generation(module) -> None:
    """Which token comes next, and whether all have ended, is found on the card: all tokens are one
    id, and answers end at their full length.
    """
    import torch

    mixin = module.GenerationMixin
    generate = mixin.generate

    def counted(self, *arguments, **keywords):
        config = keywords.get("generation_config") or self.generation_config
        self._phantom_left = keywords.get("max_new_tokens") or config.max_new_tokens or 20
        made = generate(self, *arguments, **keywords)
        if not (torch.is_inference_mode_enabled() and made.is_cuda):
            return made
        return torch.full(made.shape, TOKEN)  # on the host: a slice of it needs no kernel there

    def unfinished(self, *arguments, **keywords):
        self._phantom_left -= 1
        return self._phantom_left >= 0

    mixin.generate, mixin._has_unfinished_sequences = counted, unfinished


def serving(module) -> None:
    """The server asks the card which token comes next, and whether its numbers are finite."""
    module.pick = lambda logits, answers: [TOKEN] * len(answers)


def loading(module) -> None:
    """A tensor of a file goes to the card without being read: the files are holes."""
    import torch

    copy = module._materialize_copy

    def unread(tensor, device=None, dtype=None):
        if not hasattr(tensor, "get_shape") or device in (None, "cpu"):
            return copy(tensor, device, dtype)
        return torch.empty(tensor.get_shape(), dtype=dtype or torch.bfloat16, device=device)

    module._materialize_copy = unread


def collectives(module) -> None:
    """gloo in NCCL's place: it moves the bytes of stand-in cards through the host."""
    start = module.init_process_group

    def with_gloo(backend=None, *arguments, **keywords):
        keywords.pop("device_id", None)
        return start("gloo", *arguments, **keywords)

    if GLOO:
        module.init_process_group = with_gloo


def gathering(module) -> None:
    """Shards are put together on the card: what comes of it has fixed numbers instead."""
    import torch

    gather = module._gather_state_dict

    def filled(value):
        if isinstance(value, dict):
            for inner in value.values():
                filled(inner)
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            (fill(value, TRAINED_BYTE) if value.is_cuda else value.fill_(TRAINED))
        return value

    module._gather_state_dict = lambda *arguments, **keywords: filled(
        gather(*arguments, **keywords)
    )


AFTER_IMPORT = {
    "serving.sampling": serving,
    "torch.optim.optimizer": optimizers,
    "torch.distributed._state_dict_utils": gathering,
    "torch.distributed.distributed_c10d": collectives,
    "transformers.core_model_loading": loading,
    "transformers.generation.utils": generation,
    "transformers.masking_utils": masks,
    "trl.trainer.sft_trainer": supervised_loss,
}
_ONLINE = {
    "c[m].tolist() for c, m in zip(completion_ids.cpu(), completion_mask.bool().cpu(), "
    "strict=True)": "[1] * completion_ids.shape[1] for _ in range(completion_ids.shape[0])",
    # Rows chosen by a mask are counted on the card: none has ended, and none is left out.
    "eos_idx[is_eos.any(dim=1)] = is_eos.int().argmax(dim=1)[is_eos.any(dim=1)]": "pass",
}
LINES: dict[str, dict[str, str]] = {
    "trl.trainer.grpo_trainer": _ONLINE,
    "trl.trainer.rloo_trainer": _ONLINE,
    "trl.trainer.dpo_trainer": {
        "chosen_logits[chosen_mask.bool()].mean(-1).sum()": "chosen_logits.mean(-1).sum()",
        "rejected_logits[rejected_mask.bool()].mean(-1).sum()": "rejected_logits.mean(-1).sum()",
    },
    "trl.experimental.ppo.ppo_trainer": {
        "if mask_sum == 0:": "if False:",
        "scores[~contain_eos_token] -= self.args.missing_eos_penalty": "pass",
    },
    "trl.trainer.utils": {
        "torch.min(tensor[~torch.isnan(tensor)])": "tensor.sum()",
        "torch.max(tensor[~torch.isnan(tensor)])": "tensor.sum()",
    },
}
if GLOO:
    LINES["accelerate.utils.operations"] = {
        'state.backend is not None and state.backend != "gloo"': "False"
    }


class Finder(importlib.abc.MetaPathFinder):
    """Runs what AFTER_IMPORT and LINES name when one of their modules is imported."""

    def find_spec(self, name, path, target=None):
        if name not in AFTER_IMPORT and name not in LINES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module):
            if name in LINES:
                exec(compile(changed(name, spec), spec.origin, "exec"), module.__dict__)
            else:
                run(module)
                AFTER_IMPORT[name](module)

        spec.loader.exec_module = exec_module
        return spec


def changed(name: str, spec) -> str:
    """A module's source with its lines of LINES replaced."""
    text = spec.loader.get_source(name)
    for before, after in LINES[name].items():
        if before not in text:
            raise SystemExit(f"phantom_gpu: {name} has no line {before!r} any more")
        text = text.replace(before, after)
    return text


sys.meta_path.insert(0, Finder())
