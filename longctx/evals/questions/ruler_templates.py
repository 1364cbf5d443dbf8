"""What the prompts of RULER say, word for word, so that results can be compared with published ones.

Facts of NVIDIA RULER (github.com/NVIDIA/RULER at c3f5e3b, Apache-2.0, Copyright 2024 NVIDIA CORPORATION: its
constants.py, synthetic.yaml and generators in scripts/data/synthetic) and of RULERv2's basic tasks (NVIDIA-NeMo/Skills,
nemo_skills/dataset/ruler2/prepare_niah.py, Apache-2.0, Copyright 2025 NVIDIA CORPORATION).
"""

from typing import NamedTuple

from longctx.data.generated.passkey import GRASS


class Template(NamedTuple):
    """A prompt in three parts, and the tokens that an answer may take.

    Attributes:
      before: the text.
      question: behind it.
      prefix: how the answer begins. The one of variables has a space behind it there, which begins the answer here.
    """

    before: str
    question: str
    prefix: str
    tokens: int


SEVERAL = Template(
    "Some special magic {values} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {values} afterwards.\n",
    "\nWhat are all the special magic {values} for {keys} mentioned in the provided text?",
    " The special magic {values} for {keys} mentioned in the provided text are",
    128,
)
SINGLE = Template(  # what the generator makes of the above for one value
    "A special magic {values} is hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {values} afterwards.\n",
    "\nWhat is the special magic {values} for {keys} mentioned in the provided text?",
    " The special magic {values} for {keys} mentioned in the provided text is",
    128,
)
SEVERAL_V2 = SEVERAL._replace(before=SEVERAL.before.replace("memorize it", "memorize them"))
NEEDLE = "One of the special magic {values} for {key} is: {value}."
VARIABLES = Template(
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
    "\nQuestion: Find all variables that are assigned the value {value} in the text above.",
    " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assigned the "
    "value {value}, they are:",
    30,
)
FIRST, NEXT = "VAR {name} = {value}", "VAR {name} = VAR {before} "
COMMON = Template(
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n",
    "\nQuestion: What are the 10 most common words in the above list?",
    " Answer: The top 10 words that appear most often in the list are:",
    120,
)
FREQUENT = Template(
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. ",
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
    "appeared words in the above coded text?",
    " Answer: According to the coded text above, the three most frequently appeared words are:",
    50,
)
NOISE = GRASS.strip()
DEPTHS = tuple(round(100 * i / 39) for i in range(40))  # percent of an essay's sentences before a needle
