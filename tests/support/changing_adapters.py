"""Adapters that change weights of their base when they are loaded, as PEFT saves them."""

from __future__ import annotations


def changing_adapter(work, folder, kind):
    """A PEFT folder whose adapter changes weights of the base when it is loaded."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = work / "models" / "miniature"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if kind in ("resized", "padded"):
        tokenizer.add_tokens(["<extra>"])
        model.resize_token_embeddings(len(tokenizer), 64 if kind == "padded" else None)
        model.get_input_embeddings().weight.data *= 0.5
    settings = {} if kind in ("resized", "padded") else {"init_lora_weights": kind}
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **settings)
    model = get_peft_model(model, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += torch.randn_like(weight) * 0.05
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
