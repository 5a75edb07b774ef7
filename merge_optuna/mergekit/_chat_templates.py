"""The chat templates that mergekit knows by name, each rendering what mergekit's renders.

Quirks that are theirs are kept, such as the line break of ``llama3`` after a message and the
indentation of ``exaone``: who names one expects the model to be prompted as by mergekit.
"""

from __future__ import annotations

_CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_LLAMA3 = (
    "{{ bos_token if messages }}"
    "{% for m in messages %}"
    "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' }}"
    "{{ m.content | trim ~ '<|eot_id|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)

_ALPACA = (
    "{% set titles = {'user': 'Instruction', 'assistant': 'Response', 'user_context': 'Input'} %}"
    "{% set system = messages | selectattr('role', 'equalto', 'system') | list %}"
    "{{ (system[-1].content | trim if system else '') ~ '\\n\\n' }}"
    "{% for m in messages if m.role in titles %}"
    "{{ '### ' ~ titles[m.role] ~ ':\\n' ~ m.content | trim }}"
    "{{ '\\n\\n' if m is not sameas messages[-1] }}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1].role != 'assistant' %}"
    "{{ '### Response:\\n' }}"
    "{% endif %}"
)

_EXAONE = (
    "{% set indent = ' ' * 4 %}"
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}"
    "{{ indent * 2 ~ '[|system|][|endofturn|]\\n\\n' }}"
    "{% endif %}"
    "{{ indent ~ '[|' ~ m.role ~ '|]' ~ m.content ~ '\\n' ~ indent * 2 }}"
    "{{ '\\n\\n' if m.role == 'user' else '[|endofturn|]\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ indent ~ '[|assistant|]\\n' }}{% endif %}"
)

_MISTRAL = (
    "{% set system = messages[0].content if messages[0].role == 'system' %}"
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    "{{ bos_token }}"
    "{% for m in turns %}"
    "{% if m.role != ('user', 'assistant')[loop.index0 % 2] %}"
    "{{ raise_exception('After a system message, if there is one, user and assistant take turns, '"
    " ~ 'beginning with the user.') }}"
    "{% endif %}"
    "{% if m.role == 'assistant' %}"
    "{{ ' ' ~ m.content ~ eos_token }}"
    "{% elif loop.first and messages[0].role == 'system' %}"
    "{{ ' [INST] ' ~ system ~ '\\n\\n' ~ m.content ~ ' [/INST]' }}"
    "{% else %}"
    "{{ ' [INST] ' ~ m.content ~ ' [/INST]' }}"
    "{% endif %}"
    "{% endfor %}"
)

CHAT_TEMPLATES = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}
