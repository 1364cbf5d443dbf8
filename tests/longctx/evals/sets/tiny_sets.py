"""Tiny folders in the form of each published set, and for each question a right answer and others with their scores."""

import csv
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from pyarrow import Table, parquet


class Tiny(NamedTuple):
    """How a folder is written, and {task: [{answer: score} of each question, the first answer right]}."""

    write: Callable[[pathlib.Path], None]
    answers: dict[str, list[dict[str, float]]]


def lines(path: pathlib.Path, *rows: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", "utf-8")


def listing(path: pathlib.Path, *rows: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1), "utf-8")


def table(path: pathlib.Path, *rows: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(Table.from_pylist(list(rows)), path, row_group_size=1)


def longbench(folder):
    row = lambda asked, *answers, classes=None: dict(
        input=asked, context="A text.", answers=list(answers), length=3, language="en", all_classes=classes, _id="1"
    )
    data = folder / "data"
    lines(data / "hotpotqa.jsonl", row("Who?", "The Red Fox", "a fox"))
    lines(data / "gov_report_e.jsonl", row("", "one two three four"))
    lines(data / "multifieldqa_zh.jsonl", row("谁？", "红狐狸。"))
    lines(data / "trec.jsonl", row("Type:", "Invention", classes=["Invention", "Vent", "Place"]))
    lines(data / "passage_count.jsonl", row("", "12"))
    lines(data / "passage_retrieval_en.jsonl", row("It is.", "Paragraph 7"))
    lines(data / "lcc.jsonl", row("", "return total"))
    (folder / "config").mkdir()
    prompts = {"hotpotqa": "Read.\n{context}\nSo: {input} {x}\nAnswer: "}
    (folder / "config" / "dataset2prompt.json").write_text(json.dumps(prompts))


def longbench_v2(folder):
    row = dict(question="Which?", context="A text.", answer="B", difficulty="easy", domain="x", sub_domain="y", _id="1")
    choices = {f"choice_{letter}": f"choice {letter}" for letter in "ABCD"}
    listing(folder / "data.json", *(row | choices | {"length": length} for length in ("short", "long")))


def leval(folder):
    row = lambda way, *pairs: dict(
        input="A text.", instructions=[q for q, _ in pairs], outputs=[a for _, a in pairs], evaluation=way, source="x"
    )
    closed, opened = folder / "LEval-data" / "Closed-ended-tasks", folder / "LEval-data" / "Open-ended-tasks"
    lines(closed / "coursera.jsonl", row("exam", ("What? A. B. C. D.", "BD"), ("Which?", "(B) Their mind.")))
    lines(closed / "gsm100.jsonl", row("exam", ("How many?", "18")))
    lines(closed / "sci_fi.jsonl", row("exam", ("Is it?", "True [fact: False]")))
    lines(closed / "topic_retrieval_longchat.jsonl", row("exam", ("First?", "The role of art")))
    lines(opened / "natural_question.jsonl", row("f1", ("When?", "April 25 , 2018")), row("human", ("Why?", "So.")))
    lines(opened / "news_summ.jsonl", row("rouge", ("Summarize.", "one two three four")))


def loogle(folder):
    row = lambda pairs="none", output="None": dict(input="A text.", title="T", qa_pairs=str(pairs), output=output)
    data = folder / "LooGLE-testdata"
    pair = lambda question, answer: {"Q": question, "A": answer, "S": ["A text."]}
    lines(data / "shortdep_qa.jsonl", row([pair("Where?", "in the big town"), pair("Who?", "Ann")]))
    filled = {"<mask-0>": "Ann O'Neil", "<mask-1>": "Paris"}
    lines(data / "shortdep_cloze.jsonl", row([pair("<mask-0> was in <mask-1>.", filled)]))
    lines(data / "longdep_summarization.jsonl", row(output="one two three four"))


def loogle_of_columns(folder):
    row = dict(context="A text.", answer="in the town", evidence="['A']", title="T", doc_id="1", task="x", id="2")
    table(folder / "longdep_qa" / "test-00000-of-00001.parquet", row | {"question": "Where?"})


def infinitebench(folder):
    row = lambda asked, answer, options=(): dict(id=0, context="A text.", input=asked, answer=answer, options=options)
    four = ["alpha", "beta", "gamma", "delta"]
    lines(folder / "passkey.jsonl", row("The key?", ["71432"]))
    lines(folder / "kv_retrieval.jsonl", row("Key?", ["cb59052b-9128"]))
    lines(folder / "longbook_sum_eng.jsonl", row("", ["one two three four"]))
    lines(folder / "longbook_choice_eng.jsonl", row("Which?", ["gamma"], four))
    lines(folder / "longbook_qa_chn.jsonl", row("谁？", ["红狐狸"]))
    lines(folder / "longdialogue_qa_eng.jsonl", row("", ["MR. BLACK"]))
    lines(folder / "math_find.jsonl", {"prompt": "Find it."} | row("What is the largest?", 45.5))
    lines(folder / "math_calc.jsonl", row("", [1, 4, 8, -2]))
    lines(folder / "code_run.jsonl", row("func_1(3)?", [-7]))
    lines(folder / "code_debug.jsonl", row("", ["beta", "B"], four))


def helmet(folder):
    demos = [["k1", "v1"], ["k2", "v2"], ["k3", "v3"]]
    pairs = dict(context='{"a": "b1-c2"}', question="a", answer="b1-c2", demos=demos, num_kvs=1)
    lines(folder / "data/json_kv/test_k105_dep6.jsonl", pairs)
    documents = [{"title": "T", "text": "The fox.", "id": "1"}]
    asked = dict(question="Who?", answers=["The Fox", "fox"], ctxs=documents)
    lines(folder / "data/kilt/nq-dev-multikilt_1000_k50_dep6.jsonl", asked)
    lines(folder / "data/kilt/nq-train-multikilt_1000_k3_dep6.jsonl", asked)
    magic = dict(context="Text.", query="red-fox", type_needle_v="numbers", answer=["12", "34"], index=0)
    lines(folder / "data/ruler/niah_multivalue/validation_8192.jsonl", magic)


def babilong(folder):
    row = lambda question, target: dict(input="Mary went to the kitchen.", question=question, target=target)
    lines(folder / "data/qa1/4k.json", row("Where is Mary? ", "kitchen"), row("Where is John?", "garden"))
    table(folder / "data/qa8/0k-00000-of-00001.parquet", row("What is Mary carrying? ", "apple,milk"))
    listing(folder / "2k/qa19.json", row("How do you go from the kitchen to the garden?", "e,n"))


def ruler(folder):
    row = lambda *outputs, prefix="": dict(
        index=0, input="A text. What?", outputs=outputs, length=9, answer_prefix=prefix
    )
    data = folder / "synthetic" / "4096" / "data"
    lines(data / "niah_multivalue" / "validation.jsonl", row("7123456", "1234567", prefix=" They are "))
    lines(data / "qa_1" / "validation.jsonl", row("Fox", "the dog"))


def longproc(folder):
    prompt = lambda name, text: (
        (folder / name).mkdir(parents=True),
        (folder / name / "prompts.yaml").write_text(
            "USER_PROMPT: |-\n" + "".join(f"  {x}\n" for x in text.split("\n"))
        ),
    )
    prompt("path_traversal", "[TASK]\n\n  Go.\n{city_context}\nFrom {src_city} to {dst_city}.")
    prompt("countdown", "Solve.\n{demonstration}\nNumbers: {nums}\nTarget: {target}")
    prompt("tom_tracking", "Like {{this}}.\n{story}\n{question}")
    prompt("html_to_tsv", "{html_str}\nGet {task_topic} {task_description}{filtering_instruction}\n{tsv_header}")
    path = dict(context_nl="From A one goes to B.", question_repr=["A", "B"], answer_nl="From A, take a bus to B.")
    listing(folder / "path_traversal/path_traversal_0.5k.json", path)
    puzzle = lambda demonstration: dict(
        nums=[21, 16, 17, 26],
        target=46,
        solution_text="21 + 16 = 37\n26 - 17 = 9\n37 + 9 = 46",
        demonstration=demonstration,
    )
    listing(folder / "countdown/countdown_2k.json", *map(puzzle, ("asked", "{shown}", "shown too")))
    trace = "Ann's belief:\n- Step 0: {Ann sees the pen: True}\n- Step 1: {Ann: None}\nFinal Answer: the box"
    listing(folder / "tom_tracking/tom_tracking_8k.json", dict(story="Ann.", question="Where?", solution=trace))
    names = ("task_topic", "task_description", "filtering_instruction")
    page = dict.fromkeys(names, "x") | dict(tsv_header="a\tb", html_path="webpage/W1.html", gt="a\tb\nAn x\t1\ny\t2")
    listing(folder / "html_to_tsv/html_to_tsv_0.5k.json", page)
    (folder / "html_to_tsv/webpage").mkdir()
    (folder / "html_to_tsv/webpage/W1.html").write_text("<p>{braces}</p>")


def mrcr(folder):
    said = ["poem one", "word for word the first", "poem one", "and this is another of them", "Prepend ABCDE12345: 2nd"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    row = dict(answer=f"ABCDE12345{said[3]}", random_string_to_prepend="ABCDE12345", n_needles=2, n_chars=9)
    table(folder / "2needle/2needle_0.parquet", row | {"prompt": json.dumps(messages)})


def mrcr_of_google(folder):
    with (folder / "mrcr_v2p1_8needle.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["queries", "answer", "view_ops"])
        writer.writeheader()
        text = "User: a poem\nAssistant: one, two\n\nUser: Give it, with AbCdEfGhIjKl first.\nAssistant:"
        writer.writerow(dict(queries=text, answer="AbCdEfGhIjKl one, two", view_ops="x"))


def graphwalks(folder):
    prompt = "Here is a graph.\na1 -> b2\na1 -> c3\n\nOperation:\nFind the parents of node b2.\n"
    row = lambda kind, *nodes: dict(prompt=prompt, answer_nodes=list(nodes), prompt_chars=9, problem_type=kind)
    table(folder / "graphwalks_128k_and_shorter.parquet", row("bfs", "b2", "c3"), row("parents", "a1"), row("bfs"))


def lciteeval(folder):
    row = lambda answer, docs, **more: dict(id=1, answer=answer, docs=docs, length=9) | more
    data = folder / "L-CiteEval-Data"
    titled = [{"title": "Fox", "text": "It is red."}]
    listing(data / "hotpotqa.json", row("The red fox", titled, question="What?"))
    listing(data / "gov_report.json", row("one two three four", ["A text."]))
    listing(data / "niah.json", row("eat a sandwich", ["A text."], question="What?"))
    docs = ["A text.\nThe little penguin counted 83 ★\n more", "None.", "The little penguin counted 14 ★"]
    listing(data / "counting_stars.json", row([83, 14], docs, question=None))


def ada_leval(folder):
    listing(folder / "textsort_2k.json", dict(book_id=1, para_offset=[1], prompt="Order them.", answer="[2, 1, 4, 3]"))
    row = dict(question_id=1, question="How?", all_answers=["Like so."] * 11, answer="A11", tags="x")
    listing(folder / "stackselect_1k.json", row)


def nolima(folder):
    row = dict(
        id="0401",
        system_prompt="",
        needle="{CHAR} lives next to {1}.",
        questions={"onehop": "Who has been to {2}?", "twohop": "Who knows {2}?"},
        tests={"T1": {"input_args": ["the Kiasma", "Helsinki"]}},
        character_set=["Yuki", "Stuart", "Katie"],
        distractors={"onehop": "Somebody saw {2} in a film."},
    )
    listing(folder / "needlesets/needle_set.json", row)
    (folder / "haystack/rand_shuffle").mkdir(parents=True)
    for i in range(2):
        (folder / f"haystack/rand_shuffle/rand_book_{i}.txt").write_text("A line of a book.\n\n" * 30)


def oolong(folder):
    row = lambda kind, answer: (
        dict(id=1, context_window_id=1, context_len=9, dataset="x", question="What?", answer=answer, answer_type=kind)
        | dict(context_window_text="Records.", context_window_text_with_labels="no")
    )
    table(
        folder / "data/test-00000-of-00002.parquet",
        row("ANSWER_TYPE.NUMERIC", "[12]"),
        row("ANSWER_TYPE.LABEL", "['spam']"),
        row("ANSWER_TYPE.COMPARISON", "['more common than']"),
    )
    table(
        folder / "data/test-00001-of-00002.parquet",
        row("ANSWER_TYPE.DATE", "[datetime.date(2024, 4, 8)]"),
        row("ANSWER_TYPE.USER", "[63685]"),
    )


def oolong_of_games(folder):
    row = lambda answer: dict(id="1", context_window_id="1", context_window_text="A.", question="What?", answer=answer)
    lines(folder / "dnd/test.jsonl", row("84"), row("Fjord, Jester"), row("Fireball"))


BETA = {" (B)": 1.0, " The correct answer is (B).": 1.0, " (A)": 0.0, " Because": 0.0, "": 0.0}
ROUGE = {" one two three four": 1.0, "four one two": 4 / 7, "five": 0.0}
GOOGLE = {"AbCdEfGhIjKl one, two": 1.0, "Sure: AbCdEfGhIjKl one, two": 1.0, "one, two": 0.0, "AbCdEfGhIjKl": 0.0}

FORMS = {
    "longbench": Tiny(
        longbench,
        {
            "hotpotqa": [{" the fox, red": 1.0, "fox": 1.0, "dog": 0.0, "": 0.0}],
            "gov_report_e": [ROUGE],
            "multifieldqa_zh": [{"红狐狸": 1.0, "红": 0.5, "狗": 0.0}],
            "trec": [{" Invention\nPlace": 1.0, "Invention or Place": 0.5, "Place": 0.0}],
            "passage_count": [{" 12": 1.0, "12 of 30": 0.5, "none": 0.0}],
            "passage_retrieval_en": [{" Paragraph 7": 1.0, "Paragraph 17": 0.0}],
            "lcc": [{"\n```\nreturn total": 1.0, "# x\nreturn tot": 20 / 22, "`": 0.0}],
        },
    ),
    "longbench_v2": Tiny(longbench_v2, {"short": [BETA], "long": [BETA]}),
    "leval": Tiny(
        leval,
        {
            "coursera": [
                {" BD": 1.0, " B, D": 1.0, "B": 0.25, "ABD": 0.0, "": 0.0},
                {" B": 1.0, "(B) Their": 1.0, "C": 0},
            ],
            "gsm100": [{" 9 * 2 = 18.": 1.0, "18.0": 1.0, "18 or 19": 0.0, "many": 0.0}],
            "sci_fi": [{" True": 1.0, "False": 0.0}],
            "topic_retrieval_longchat": [{" It was the Role of art!": 1.0, "art": 0.0}],
            "natural_question": [{" april 25 2018": 1.0, "2018": 0.5}],
            "news_summ": [ROUGE],
        },
    ),
    "loogle": Tiny(
        loogle,
        {
            "shortdep_qa": [{" in the big town": 1.0, "big": 0.5}, {" Ann": 1.0, "Bob": 0.0}],
            "shortdep_cloze": [
                {
                    ' {"<mask-0>": "Ann O\'Neil", "<mask-1>": "Paris"}': 1.0,
                    "{'<mask-0>': \"Ann O'Neil\", '<mask-1>': 'Paris'}": 1.0,
                    "{'<mask-1>': 'Paris'}": 0.5,
                    "Paris {": 0.0,
                    "{{}}": 0.0,
                }
            ],
            "longdep_summarization": [ROUGE],
        },
    ),
    "loogle of columns": Tiny(loogle_of_columns, {"longdep_qa": [{" in the town": 1.0, "no": 0.0}]}),
    "infinitebench": Tiny(
        infinitebench,
        {
            "passkey": [{" 71432.": 1.0, "714320": 0.0}],
            "kv_retrieval": [{' "cb59052b-9128"': 1.0, "cb59052b-9128a": 0.0}],
            "longbook_sum_eng": [ROUGE],
            "longbook_choice_eng": [{" C": 1.0, "B": 0.0}],
            "longbook_qa_chn": [{"红狐狸": 1.0, "红": 0.5}],
            "longdialogue_qa_eng": [{" Mr. Black": 1.0, "Blackie": 0.0}],
            "math_find": [{" 45.5": 1.0, "45": 0.0}],
            "math_calc": [{" 1 4 8 -2": 1.0, "[1, 4, 9, -2]": 0.5}],
            "code_run": [{" It is -7.": 1.0, "-7 or 7": 0.0}],
            "code_debug": [{" B": 1.0, "A": 0.0}],
        },
    ),
    "helmet": Tiny(
        helmet,
        {
            "json_kv k105": [{" b1-c2": 1.0, "it is B1-C2 I think": 1.0, "b1": 0.0}],
            "kilt nq k50": [{" A fox": 1.0, "dog": 0.0}],
            "ruler niah_multivalue 8192": [{" 12 and 34": 1.0, "34": 0.5, "": 0.0}],
        },
    ),
    "babilong": Tiny(
        babilong,
        {
            "qa1 4k": [{" the kitchen.": 1.0, "kitchen. Or the garden": 1.0, "kitchen or garden": 0.0, "": 0.0}],
            "qa8 0k": [{" apple, milk": 1.0, "apple": 0.0, "apple milk football": 0.0}],
            "qa19 2k": [{" e,n": 1.0, "n,e": 0.0}],
        },
    ),
    "ruler": Tiny(
        ruler,
        {
            "4096/niah_multivalue": [{" 7123456, 1234567": 1.0, "1234567": 0.5, "7": 0.0}],
            "4096/qa_1": [{" a fox": 1.0, "The Dog.": 1.0, "cat": 0.0}],
        },
    ),
    "longproc": Tiny(
        longproc,
        {
            "path_traversal_0.5k": [
                {"<Route>\nFrom A, take a bus to B.\n</Route>": 1.0, "<Route>A</Route>": 0.0, "": 0.0}
            ],
            "countdown_2k": [
                {
                    "<Solution>\n21 + 16 = 37\n26 - 17 = 9\n37 + 9 = 46\n</Solution>": 1.0,
                    "<Solution>\n21 + 16 = 37\n37 - 17 = 20\n26 + 20 = 46\n</Solution>": 1.0,
                    "<Solution>\n26 + 20 = 46\n</Solution>": 0.0,
                    "<Solution>\n21 + 16 = 38\n26 - 17 = 9\n37 + 9 = 46\n</Solution>": 0.0,
                    "<Solution>\n21 + 16 = 37\n26 / 17 = 1\n37 + 1 = 38\n</Solution>": 0.0,
                    "21 + 16 = 37\n26 - 17 = 9\n37 + 9 = 46": 0.0,
                }
            ],
            "tom_tracking_8k": [
                {
                    "So:\n- Step 0: {Ann sees pen: true}\n- Step 1: {Ann: None}": 1.0,
                    "- Step 0: {Ann sees pen: true}": 0.0,
                }
            ],
            "html_to_tsv_0.5k": [{"```tsv\na\tb\nan X\t1\ny\t2\n```": 1.0, "a\tb\nx\t1\nz\t3": 0.5, "": 0.0}],
        },
    ),
    "mrcr": Tiny(
        mrcr,
        {
            "2 needles": [
                {
                    " ABCDE12345and this is another of them": 1.0,
                    "and this is another of them": 0.0,
                    "ABCDE12345": 0.0,
                    "ABCDE12345and this is another of": 2 * 22 / 49,
                }
            ]
        },
    ),
    "mrcr of Google": Tiny(mrcr_of_google, {"mrcr_v2p1_8needle": [GOOGLE]}),
    "graphwalks": Tiny(
        graphwalks,
        {
            "bfs": [{"So.\nFinal Answer: [c3, b2]": 1.0, "Final Answer: ['b2']": 2 / 3, "b2, c3": 0.0}],
            "parents": [{"final answer: [a1]": 1.0, "Final Answer: []": 0.0}],
        },
    ),
    "lciteeval": Tiny(
        lciteeval,
        {
            "Data hotpotqa": [{" It: red fox [1][2].": 0.8, "The red fox [1].\nNo.": 1.0, "dog": 0.0}],
            "Data gov_report": [ROUGE],
            "Data niah": [{" One should eat the sandwich [3]": 1.0, "eat": 0.5}],
            "Data counting_stars": [
                {
                    ' {"little_penguin": [83, 14], "passage_id": [1, 3]}': 1.0,
                    '{"little_penguin": [83], "passage_id": [2]}': 1 / 3,
                    '{"little_penguin": 3}': 0.0,
                    "83, 14": 0.0,
                }
            ],
        },
    ),
    "ada_leval": Tiny(
        ada_leval,
        {
            "textsort_2k": [{" [2, 1, 4, 3]": 1.0, "Answer: 2 1 4 3": 1.0, "[1, 2, 3, 4]": 0.0, "": 0.0}],
            "stackselect_1k": [{" A11": 1.0, "A1": 0.0, "": 0.0}],
        },
    ),
    "nolima": Tiny(nolima, {"needle_set onehop": [], "needle_set twohop": []}),
    "oolong": Tiny(
        oolong,
        {
            "numeric test": [{" Answer: 12": 1.0, "Answer: **10**": 0.75**2, "Answer: many": 0.0}],
            "label test": [{" Label: spam": 1.0, "the label that comes is spam": 1.0, "Label: ham": 0.0}],
            "comparison test": [{"Answer: spam is more common than ham": 1.0, "less common": 0.0, "": 0.0}],
            "date test": [{" Date: 2024-04-08": 1.0, "Date: Apr 8, 2024": 1.0, "Date: [2024-04-09]": 0.0}],
            "user test": [{" User: 63685": 1.0, "User: 63686": 0.0}],
        },
    ),
    "oolong of games": Tiny(oolong_of_games, {"dnd test": [{"\\boxed{\\text{84}}": 1.0, "83": 0.75, "x": 0.0}]}),
}
