"""An engine with a small random model, and a desk that submits answers to it."""

from __future__ import annotations

import queue

PATIENCE = 60  # seconds until a test gives up waiting


def lora_model(family, dtype="float32", **lora):
    """(tokenizer, PeftModel): an untrained miniature with adapters a0 and a1 that change much."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from base_model import miniature
    from support import tiny

    torch.manual_seed(0)
    torch.set_num_threads(1)
    texts = [message["content"] for row in tiny.rows(40) for message in row["messages"]]
    tokenizer = miniature.build_tokenizer(texts, family)
    model = AutoModelForCausalLM.from_config(miniature.build_config(family, tokenizer))
    model = model.to(getattr(torch, dtype)).eval()
    lora = {"target_modules": tiny.LINEAR[family]} | lora
    config = LoraConfig(r=8, init_lora_weights=False, **lora)
    model = get_peft_model(model, config, adapter_name="a0")
    model.add_adapter("a1", config)
    return tokenizer, model.eval()


def tokens_alone(model, answer):
    """What the adapter of `answer` generates greedily by itself, by transformers' generate()."""
    import torch

    ids = torch.tensor([answer.prompt])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=answer.max_tokens, eos_token_id=None, pad_token_id=0,
            adapter_names=[answer.adapter],
        )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


class Desk:
    """Submits answers to an engine and waits for their ends."""

    def __init__(self, tokenizer, model, *, start=True, rows=8, cells=10**6, wait=100, **more):
        from serving.engine import Engine

        self.tokenizer, self.ends = tokenizer, queue.Queue()
        self.text, self.seen = {}, []
        self.engine = Engine(model, rows, cells, wait, post=self._post, **more)
        if start:
            self.engine.start()

    def _post(self, pieces):
        self.seen.append(self.engine.running)
        for piece in pieces:
            self.text[piece.answer] = self.text.get(piece.answer, "") + piece.text
            if piece.finish:
                self.ends.put((piece.answer, piece.finish))

    def answer(self, prompt, adapter="a0", tokens=12, **more):
        from serving.engine import AnswerRow

        usual = {"temperature": 0, "seed": 0, "ends": frozenset()}
        usual |= {"vocabulary": len(self.tokenizer)} | more
        return AnswerRow(
            prompt=prompt, adapter=adapter, tokenizer=self.tokenizer, max_tokens=tokens,
            send=None, **usual,
        )  # fmt: skip

    def finish(self, answers):
        """{answer: why it ended} of all of them."""
        reasons = {}
        while len(reasons) < len(answers):
            answer, why = self.ends.get(timeout=PATIENCE)
            reasons[answer] = why
        return reasons
