"""Chat templates of the families that people run, in our own words and cut down to what makes each
of them special: how it is called, what it demands, what it says of thinking.

`FAMILIES` has each with the prompt of `CONVERSATION`, written out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from tuner.engine.protocol import Message
from tuner.engine.template_child import Template
from tuner.engine.template_process import Call, TemplateError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "", "unk_token": ""}

CONVERSATION = (
    Message("system", "Be kind."),
    Message("user", "Hi?"),
    Message("assistant", "Hello.", "A greeting."),
    Message("user", "Thanks."),
)


class InThisProcess:
    """A `TemplateProcess` without a process, to start which takes most of a test's time."""

    def __init__(self, template: str, stopped: Callable[[], object]):
        self._source = template

    def render(self, call: Call) -> str:
        try:
            return Template(self._source).render(**json.loads(json.dumps(asdict(call))))
        except Exception as error:
            raise TemplateError(str(error)) from error

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True, slots=True)
class Family:
    """A template, the prompt of `CONVERSATION` by it, and the levels of thinking that it offers.
    `ends`: how the prompt ends at a level, where that shows there."""

    name: str
    source: str
    prompt: str
    think: tuple[str, ...] = ()
    usual: str = ""
    ends: tuple[tuple[str, str], ...] = ()


FAMILIES = (
    Family(
        "llama 2",
        """{% if messages[0].role == 'system' %}
{% set rest = messages[1:] %}
{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}
{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{% for m in rest %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}{% endif %}
{% if m.role == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' -}}
{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token -}}{% endif %}
{%- endfor %}""",
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi? [/INST] Hello. </s><s>[INST] Thanks. [/INST]",
    ),
    Family(
        "llama 3",
        """{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}
{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}
{{- system + '<|eot_id|>' }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}""",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nThanks.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    Family(
        # Speaks of tools unless these are None, as Transformers has them; refuses a system role.
        "mistral 3",
        """{{- bos_token }}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if m['role'] == 'user' %}
{%- if loop.last and tools is not none %}{{- '[AVAILABLE_TOOLS]' + tools | tojson }}{%- endif %}
{{- '[INST] ' + m['content'] + '[/INST]' }}
{%- else %}{{- ' ' + m['content'] | trim + eos_token }}{%- endif %}
{%- endfor %}""",
        "<s>[INST] Be kind.\n\nHi?[/INST] Hello.</s>[INST] Thanks.[/INST]",
    ),
    Family(
        "mistral 7",
        """{%- set today = strftime_now('%Y-%m-%d') %}{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- if messages[0]['content'] is string %}{%- set system = messages[0]['content'] %}
{%- else %}{%- set system = messages[0]['content'][0]['text'] %}{%- endif %}
{%- set messages = messages[1:] %}
{%- else %}{%- set system = 'Today is ' + today %}{%- endif %}
{{- '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}
{%- for m in messages %}
{%- if m['role'] == 'user' %}
{%- if m['content'] is string %}{{- '[INST]' + m['content'] + '[/INST]' }}
{%- else %}{{- '[INST]' + m['content'][0]['text'] + '[/INST]' }}{%- endif %}
{%- elif m['role'] == 'assistant' %}
{%- if m['content'] is string %}{{- m['content'] + eos_token }}
{%- else %}{{- m['content'][0]['text'] + eos_token }}{%- endif %}
{%- else %}{{- raise_exception('Only user, system and assistant roles are supported!') }}
{%- endif %}
{%- endfor %}""",
        "<s>[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][INST]Hi?[/INST]Hello.</s>[INST]Thanks.[/INST]",
    ),
    Family(
        # Thoughts are parts of the content.
        "ministral reasoning",
        """{{- bos_token }}
{%- for m in messages %}
{%- if m['role'] == 'system' %}{{- '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}
{%- elif m['role'] == 'user' %}{{- '[INST]' + m['content'] + '[/INST]' }}
{%- elif m['content'] is string %}{{- m['content'] + eos_token }}
{%- else %}
{%- for block in m['content'] %}
{%- if block['type'] == 'text' %}{{- block['text'] }}
{%- elif block['type'] == 'thinking' %}{{- '[THINK]' + block['thinking'] + '[/THINK]' }}
{%- endif %}{%- endfor %}{{- eos_token }}
{%- endif %}{%- endfor %}""",
        "<s>[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][INST]Hi?[/INST]"
        "[THINK]A greeting.[/THINK]Hello.</s>[INST]Thanks.[/INST]",
    ),
    Family(
        "gemma 2",
        """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n'
   + m['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
        "<s><start_of_turn>user\nBe kind.\n\nHi?<end_of_turn>\n"
        "<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nThanks.<end_of_turn>\n<start_of_turn>model\n",
    ),
    Family(
        "gemma 4",
        """{{- bos_token }}
{%- if (enable_thinking is defined and enable_thinking) or messages[0].role == 'system' -%}
{{- '<|turn>system\\n' }}
{%- if enable_thinking is defined and enable_thinking %}{{- '<|think|>' }}{%- endif %}
{%- if messages[0].role == 'system' %}{{- messages[0].content | trim }}
{%- set messages = messages[1:] %}{%- endif %}
{{- '<turn|>\\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content + '<turn|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn>model\\n' }}
{%- if not enable_thinking | default(false) %}{{- '<|channel>thought\\n<channel|>' }}{%- endif %}
{%- endif %}""",
        "<s><|turn>system\nBe kind.<turn|>\n<|turn>user\nHi?<turn|>\n<|turn>model\nHello.<turn|>\n"
        "<|turn>user\nThanks.<turn|>\n<|turn>model\n<|channel>thought\n<channel|>",
        ("off", "on"),
        "off",
        (("on", "<|turn>model\n"),),
    ),
    Family(
        # Shows the thoughts of answers after the last question alone.
        "qwen 3",
        """{%- set ns = namespace(last=0) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set thought = m.reasoning_content if m.reasoning_content is string else '' %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last and thought %}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
{%- endif %}
{{- m.content + '<|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nThanks.<|im_end|>\n"
        "<|im_start|>assistant\n",
        ("off", "on"),
        "on",
        (("off", "assistant\n<think>\n\n</think>\n\n"), ("low", "assistant\n")),
    ),
    Family(
        "glm 4.5",
        """[gMASK]<sop>
{%- for m in messages %}
{%- if m.role == 'user' %}<|user|>
{{ m.content }}
{{- '/nothink' if enable_thinking is defined and not enable_thinking else '' -}}
{%- elif m.role == 'assistant' %}<|assistant|>{{- '\\n<think></think>\\n' + m.content.strip() }}
{%- else %}<|system|>
{{ m.content }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
{{- '\\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}
{%- endif %}""",
        "[gMASK]<sop><|system|>\nBe kind.<|user|>\nHi?<|assistant|>\n<think></think>\nHello."
        "<|user|>\nThanks.<|assistant|>",
        ("off", "on"),
        "on",
        (("off", "/nothink<|assistant|>\n<think></think>"),),
    ),
    Family(
        "gpt-oss",
        """{%- if reasoning_effort is not defined %}
{%- set reasoning_effort = 'medium' %}{%- endif %}
{{- '<|start|>system<|message|>Reasoning: ' + reasoning_effort + '<|end|>' }}
{%- if messages[0].role == 'system' %}
{{- '<|start|>developer<|message|># Instructions\\n\\n' + messages[0].content + '<|end|>' }}
{%- set messages = messages[1:] %}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- if '<|channel|>' in m.content %}{{- raise_exception('no channels here') }}{%- endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}
{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}""",
        "<|start|>system<|message|>Reasoning: medium<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe kind.<|end|>"
        "<|start|>user<|message|>Hi?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hello.<|end|>"
        "<|start|>user<|message|>Thanks.<|end|><|start|>assistant",
        ("low", "medium", "high"),
        "medium",
    ),
    Family(
        # Opens the thought itself.
        "deepseek r1",
        """{% set ns = namespace(system='') %}
{%- for m in messages %}{%- if m['role'] == 'system' %}{% set ns.system = m['content'] %}
{%- endif %}{%- endfor %}
{{- bos_token }}{{- ns.system }}
{%- for m in messages %}
{%- if m['role'] == 'user' %}{{- '<|User|>' + m['content'] }}
{%- elif m['role'] == 'assistant' %}
{%- set content = m['content'] %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<|Assistant|>' + content + '<|end_of_sentence|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\\n' }}{%- endif %}""",
        "<s>Be kind.<|User|>Hi?<|Assistant|>Hello.<|end_of_sentence|><|User|>Thanks."
        "<|Assistant|><think>\n",
    ),
    Family(
        "deepseek v3.1",
        """{% if not thinking is defined %}{% if enable_thinking is defined %}
{% set thinking = enable_thinking %}{% else %}{% set thinking = false %}{% endif %}{% endif %}
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{- m.content }}
{%- elif m.role == 'user' %}{{- '<|User|>' + m.content }}
{%- else %}{{- '<|Assistant|></think>' + m.content + '<|end_of_sentence|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|>' + ('<think>' if thinking else '</think>') }}
{%- endif %}""",
        "<s>Be kind.<|User|>Hi?<|Assistant|></think>Hello.<|end_of_sentence|><|User|>Thanks."
        "<|Assistant|></think>",
        ("off", "on"),
        "off",
        (("on", "<|Assistant|><think>"), ("high", "<|Assistant|><think>")),
    ),
    Family(
        # Names the effort that means none, and refuses those that it does not know.
        "hunyuan 3",
        """{% if not reasoning_effort is defined %}{% set reasoning_effort = 'no_think' %}
{% elif reasoning_effort not in ['high', 'low', 'no_think'] %}
{{ raise_exception('should be no_think/low/high') }}{% endif %}
{{- bos_token }}
{%- for m in messages %}
{{- '<|' + m.role + '|>' + m.content }}
{%- endfor %}
{{- '<|assistant|><think>' + ('</think>' if reasoning_effort == 'no_think' else reasoning_effort) }}
""",
        "<s><|system|>Be kind.<|user|>Hi?<|assistant|>Hello.<|user|>Thanks."
        "<|assistant|><think></think>",
        ("off", "low", "high"),
        "off",
        (("low", "<think>low"), ("high", "<think>high"), ("on", "<think>high")),
    ),
    Family(
        "command",
        """{{- bos_token }}
{%- if tools or documents %}{{- raise_exception('made for tools') }}{%- endif %}
{%- for m in messages %}
{%- set names = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'} %}
{{- '<|START_OF_TURN_TOKEN|><|' + names[m.role] + '_TOKEN|>' }}
{%- if m.role == 'assistant' %}
{%- if m.reasoning %}{{- '<|START_THINKING|>' + m.reasoning + '<|END_THINKING|>' }}{%- endif %}
{{- '<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' }}
{%- else %}{{- m.content }}{%- endif %}
{{- '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}
{%- if reasoning_effort is defined and reasoning_effort | lower == "none" %}
{{- '<|START_THINKING|><|END_THINKING|>' }}{%- endif %}{%- endif %}""",
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be kind.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi?<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|>A greeting.<|END_THINKING|>"
        "<|START_RESPONSE|>Hello.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Thanks.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ("off", "on"),
        "on",
        (("off", "<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>"),),
    ),
    Family(
        "phi 3",
        """{% for m in messages %}
{%- if m.role == 'system' and m.content %}{{ '<|system|>\\n' + m.content + '<|end|>\\n' }}
{%- elif m.role == 'user' %}{{ '<|user|>\\n' + m.content + '<|end|>\\n' }}
{%- elif m.role == 'assistant' %}{{ '<|assistant|>\\n' + m.content + '<|end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}""",
        "<|system|>\nBe kind.<|end|>\n<|user|>\nHi?<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nThanks.<|end|>\n<|assistant|>\n",
    ),
    Family(
        "smolvlm",
        """<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}:
{%- for part in m['content'] %}
{%- if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% elif part['type'] == 'image' %}<image>
{%- endif %}{%- endfor %}{{ '<end_of_utterance>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}""",
        "<|im_start|>System: Be kind.<end_of_utterance>\nUser: Hi?<end_of_utterance>\n"
        "Assistant: Hello.<end_of_utterance>\nUser: Thanks.<end_of_utterance>\nAssistant:",
    ),
    Family(
        "granite 3",
        """{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}
{%- set messages = messages[1:] %}
{%- else %}{%- set system = 'Today is ' + strftime_now('%B %d, %Y') + '.' %}
{%- if thinking %}{%- set system = system + ' Write your thoughts first.' %}{%- endif %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- for m in messages %}
{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant' }}
{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}
{{- '<|end_of_role|>' }}{%- endif %}""",
        "<|start_of_role|>system<|end_of_role|>Be kind.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Hi?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>Hello.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Thanks.<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
        ("off", "on"),
        "off",
    ),
    Family(
        "seed-oss",
        """{%- set bos_token = '<seed:bos>' %}{%- set eos_token = '<seed:eos>' %}
{%- if not thinking_budget is defined %}{%- set thinking_budget = -1 %}{%- endif %}
{%- if thinking_budget == 0 %}{{- bos_token + 'system\\nDo not think.' + eos_token }}
{%- elif thinking_budget != -1 %}
{{- bos_token + 'system\\nThink ' }}{{- thinking_budget }}{{- ' tokens at most.' + eos_token }}
{%- endif %}
{%- for m in messages %}
{{- bos_token + m.role + '\\n' }}
{%- if m.reasoning_content is defined and m.reasoning_content is string %}
{{- '<seed:think>' + m.reasoning_content | trim + '</seed:think>\\n' }}{%- endif %}
{{- m.content + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{- bos_token + 'assistant\\n' }}{%- endif %}""",
        "<seed:bos>system\nBe kind.<seed:eos><seed:bos>user\nHi?<seed:eos>"
        "<seed:bos>assistant\n<seed:think>A greeting.</seed:think>\nHello.<seed:eos>"
        "<seed:bos>user\nThanks.<seed:eos><seed:bos>assistant\n",
        ("off", "low", "medium", "high", "on"),
        "on",
    ),
)
