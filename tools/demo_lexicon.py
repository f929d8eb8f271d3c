"""The words, names and sentence forms that the demo model's exercises are made of.

Only data: a small closed vocabulary, so that a model of a few million parameters sees every
word often enough to know it. Must not know how exercises are drawn or a model is trained.
"""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS = _split(
    """
    ant apple bag ball bear bell bird boat book bread cake cat chair clock coat corn cup desk
    dog door drum duck egg fish flag fork fox frog gate glass goat grape hat horse house key
    king kite lamp leaf lemon lion milk moon mouse nail nest olive owl pear pen piano queen
    ring road rose ship shoe snake spoon star tree wolf zebra
    """
)
NAMES = _split(
    """
    Alice Ben Clara David Emma Frank Grace Henry Ivan Julia Karl Laura Maria Nina Oscar Paul
    Rosa Sam Tina Victor
    """
)
CITIES = _split(
    """
    Athens Berlin Boston Cairo Dublin Geneva Hanoi Lima Lisbon London Madrid Milan Oslo Paris
    Prague Rome Seoul Tokyo Vienna Zurich
    """
)
COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "red", "white", "yellow")
JOBS = ("baker", "doctor", "driver", "farmer", "lawyer", "nurse", "painter", "pilot", "teacher")
MONTHS = _split(
    """
    January February March April May June July August September October November December
    """
)
ORDINALS = ("first", "second", "third", "fourth", "fifth")

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer with the result only.",
    "You are a precise assistant. Keep the answer short.",
)

# Ways to ask each kind of exercise; the fields in braces are filled by tools.demo_tasks.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "add": (
        "What is {a} + {b}?",
        "Calculate {a} + {b}.",
    ),
    "subtract": (
        "What is {a} - {b}?",
        "Calculate {a} - {b}.",
    ),
    "larger": (
        "Which number is larger, {a} or {b}?",
        "Give the larger number: {a}, {b}",
        "Compare {a} and {b}. Which is larger?",
    ),
    "parity": (
        "Is {a} even or odd?",
        "Tell me whether {a} is even or odd.",
        "Even or odd: {a}",
    ),
    "sort": (
        "Sort these words alphabetically: {words}",
        "Put the words in alphabetical order: {words}",
        "Alphabetical order, please: {words}",
    ),
    "reverse": (
        "Reverse the order of these words: {words}",
        "Write the list backwards: {words}",
        "Give these words in reverse order: {words}",
    ),
    "upper": (
        "Write in upper case: {words}",
        "Change to capital letters: {words}",
        "Make this upper case: {words}",
    ),
    "repeat": (
        "Repeat these words: {words}",
        "Say exactly this: {words}",
        "Copy the list: {words}",
    ),
    "count": (
        "How many words are in this list: {words}",
        "Count the words: {words}",
        "Give the number of words here: {words}",
    ),
    "nth": (
        "What is the {ordinal} word of this list: {words}",
        "Give the {ordinal} word: {words}",
        "Pick the {ordinal} word from: {words}",
    ),
    "extract": (
        "{text} {question}",
        "Read this: {text} {question}",
        "{question} Text: {text}",
    ),
    "json": (
        "Write as JSON with the keys name, job and city: {text}",
        "Extract name, job and city as JSON: {text}",
        "{text} Give name, job and city as JSON.",
    ),
    "fact": (
        "{text} Is the {thing} {colour}?",
        "{text} Answer yes or no: is the {thing} {colour}?",
        "Facts: {text} Question: is the {thing} {colour}?",
    ),
    "date": (
        "Write the date {date} as {form}.",
        "Change {date} to the format {form}.",
        "Convert the date {date} to {form}.",
    ),
}

ORDER_FORMS = (
    "{name} from {city} ordered {number} units of {thing}.",
    "Order of {name}: {number} units of {thing}, to be sent to {city}.",
    "We send {number} units of {thing} to {name} in {city}.",
)
ORDER_QUESTIONS = {
    "name": ("Who is the customer?", "What is the name of the customer?"),
    "city": ("Which city is named?", "What is the city?"),
    "number": ("How many units are ordered?", "What is the quantity?"),
}
PERSON_FORMS = (
    "{name} is a {job} from {city}.",
    "{name} lives in {city} and works as a {job}.",
    "The {job} {name} lives in {city}.",
)
