"""Makes a language model that real vLLM serves on any CPU: a Llama with two small layers and random weights and a
tokenizer. Under 1 MB, made in seconds, and the same each time. It talks nonsense, at full speed.

Usage: tiny_llama.py FOLDER
"""

import pathlib
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20
# vLLM's attention for the CPU takes heads of 32, 64, 80, … values.
HEADS, HEAD = 2, 64
CONTEXT = 2048
WORDS = 512
BEGIN, END = "<s>", "</s>"
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte, and words and pieces of words out of this file, so that some of what it says is readable."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.train_from_iterator(
        [pathlib.Path(__file__).read_text()],
        trainers.BpeTrainer(
            vocab_size=WORDS,
            special_tokens=[BEGIN, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token=BEGIN, eos_token=END, chat_template=CHAT
    )


def model() -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    width = HEADS * HEAD
    shape = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(shape).to(torch.bfloat16)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder)
    model().save_pretrained(folder)
    print(f"wrote a tiny Llama to {folder}")


if __name__ == "__main__":
    main()
