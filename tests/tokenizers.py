"""Small tokenizers of the kinds that published models have, with their special tokens, and texts that spell these."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "You are a helpful assistant.",
    "What is the capital of France?",
    "The capital of France is Paris, thank you for asking!",
    "system user assistant model human",
    "I do not know;  look it up yourself.\n\nWhy?\n",
] * 4


def _template(begin: str | None, end: str | None, ids: dict[str, int]) -> processors.PostProcessor:
    used = [token for token in (begin, end) if token]
    single = " ".join(part for part in (begin, "$A", end) if part)
    return processors.TemplateProcessing(single=single, special_tokens=[(token, ids[token]) for token in used])


def byte_level(special: list[str], *, begin: str | None = None, end: str | None = None, **names: str):
    """As LLaMA-3's and Qwen's: byte-level BPE; its special tokens follow the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(special)
    if begin or end:
        ids = {token: tokenizer.token_to_id(token) for token in special}
        tokenizer.post_processor = _template(begin, end, ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def sentencepiece(special: list[str], kind: str = "bpe", *, begin=None, end=None, **names: str):
    """As Mistral's, Gemma's (BPE) and T5's (Unigram): blanks are letters, special tokens stand in the vocabulary."""
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", *special, *bytes_], show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        alphabet = [*"<>/|_#abcdefghijklmnopqrstuvwxyz"]
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=[*special, "<unk>"], unk_token="<unk>", initial_alphabet=alphabet,
            show_progress=False,
        )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)
    if begin or end:
        ids = {token: tokenizer.token_to_id(token) for token in special}
        tokenizer.post_processor = _template(begin, end, ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **names)


def wordpiece():
    """As BERT's, which begins and closes every text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # so that `[SEP]` stays one word
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    alphabet = [*"[]sepcl"]
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = _template("[CLS]", "[SEP]", {"[CLS]": 2, "[SEP]": 3})
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[CLS]", eos_token="[SEP]",
    )  # fmt: skip


LLAMA3 = """{%- for message in messages %}
{%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}
{%- if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
{{- content }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""  # noqa: E501
QWEN = """{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""  # noqa: E501
MISTRAL = """{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}{% set loop_messages = messages[1:] %}{% else %}{% set system = '' %}{% set loop_messages = messages %}{% endif %}
{{- bos_token }}
{%- for message in loop_messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if message['role'] == 'user' %}{{- '[INST] ' + (system if loop.last else '') + message['content'] + ' [/INST]' }}
{%- else %}{{- ' ' + message['content'] + eos_token }}{% endif %}
{%- endfor %}"""  # noqa: E501
GEMMA = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"""  # noqa: E501


def llama3():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    names = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[1]}
    return byte_level(special, begin=special[0], chat_template=LLAMA3, **names)


def qwen():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return byte_level(special, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=QWEN)


def mistral():
    special = ["<s>", "</s>", "[INST]", "[/INST]"]
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    return sentencepiece(special, begin="<s>", chat_template=MISTRAL, **names)


def gemma():
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return sentencepiece(special, begin="<bos>", chat_template=GEMMA, **names)


def t5():
    return sentencepiece(["<pad>", "</s>"], "unigram", end="</s>", pad_token="<pad>", eos_token="</s>")


CHAT = {"llama3": llama3, "qwen": qwen, "mistral": mistral, "gemma": gemma}
ALL = {**CHAT, "t5": t5, "wordpiece": wordpiece}
