"""Chat templates and special tokens of the families, for miniatures.

They follow the published formats (Llama 3 headers, Mistral [INST], plain turns for Mamba) and take
tools and tool calls, so that a rehearsal meets the same rules as the real template.
"""

from __future__ import annotations

LLAMA = """{{- bos_token }}
{%- for message in messages %}
{%- if loop.first and tools %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if message['role'] == 'system' %}{{- message['content'] + '\\n' }}{%- endif %}
{{- 'You can call these functions:\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{{- '<|eot_id|>' }}
{%- endif %}
{%- if message['role'] == 'system' and tools and loop.first %}
{%- elif message.get('tool_calls') %}
{%- if message['tool_calls'] | length != 1 %}
{{- raise_exception('This model only supports single tool-calls at once!') }}
{%- endif %}
{%- set call = message['tool_calls'][0]['function'] %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + call['name'] + '", "parameters": ' + (call['arguments'] | tojson) + '}<|eot_id|>' }}
{%- elif message['role'] in ('tool', 'ipython') %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
{%- if message['content'] is string %}{{- message['content'] }}{%- else %}{{- message['content'] | tojson }}{%- endif %}
{{- '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

MISTRAL = """{{- bos_token }}
{%- set state = namespace(system='') %}
{%- if tools %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}{%- set state.system = message['content'] + '\\n\\n' %}
{%- elif message['role'] == 'user' %}
{{- '[INST] ' + state.system + message['content'] + '[/INST]' }}{%- set state.system = '' %}
{%- elif message.get('tool_calls') %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message['tool_calls'] %}
{%- if call['id'] | length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}
{%- endif %}
{{- '{"name": "' + call['function']['name'] + '", "arguments": ' + (call['function']['arguments'] | tojson) + ', "id": "' + call['id'] + '"}' }}
{%- if not loop.last %}{{- ', ' }}{%- endif %}
{%- endfor %}
{{- ']' + eos_token }}
{%- elif message['role'] == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + (message['content'] | string) + ', "call_id": "' + (message.get('tool_call_id') or '') + '"}[/TOOL_RESULTS]' }}
{%- else %}{{- ' ' + message['content'] | trim + eos_token }}
{%- endif %}
{%- endfor %}"""

PLAIN = """{{- bos_token }}
{%- if tools %}{{- 'tools: ' + (tools | tojson) + '\\n' }}{%- endif %}
{%- for message in messages %}
{{- message['role'] + ': ' }}
{%- if message.get('tool_calls') %}{{- message['tool_calls'] | tojson }}
{%- elif message['content'] is string %}{{- message['content'] | trim }}
{%- else %}{{- message['content'] | tojson }}{%- endif %}
{{- eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"""

CHAT_TEMPLATES = {"llama": LLAMA, "mistral": MISTRAL, "mamba": PLAIN}

SPECIAL_TOKENS = {
    "llama": {
        "bos": "<|begin_of_text|>",
        "eos": "<|eot_id|>",
        "pad": "<|finetune_right_pad_id|>",
        "all": (
            "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>",
            "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>",
        ),
    },
    "mistral": {
        "bos": "<s>",
        "eos": "</s>",
        "pad": "<unk>",
        "all": (
            "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
        ),
    },
    "mamba": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|padding|>",
              "all": ("<|endoftext|>", "<|padding|>")},
}  # fmt: skip
