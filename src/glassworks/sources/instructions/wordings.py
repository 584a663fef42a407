"""The wordings of the questions, by kind. Several wordings of a kind keep a model from learning one string."""

JSON = (
    'Describe the emoji "{name}" as JSON with the keys concept, who, skin and group.',
    'Write "{name}" as JSON: concept, who, skin, group.',
    'Turn the emoji name "{name}" into a JSON object with concept, who, skin and group.',
    'Give concept, who, skin and group of "{name}" as one JSON object.',
)
JSON_AGAIN = (
    "Now write it as JSON with the keys concept, who, skin and group.",
    "And as JSON: concept, who, skin, group.",
    "Give the whole emoji as one JSON object with concept, who, skin and group.",
)
FIELDS = {
    "who": (
        'Who is shown in the emoji "{name}": man, woman, boy or girl?',
        'Man, woman, boy or girl: who is "{name}"?',
        'Name the person in "{name}": man, woman, boy or girl.',
    ),
    "skin": (
        'Which skin tone does "{name}" have?',
        'What is the skin tone of the emoji "{name}"?',
        'Name the skin tone in "{name}".',
    ),
    "concept": (
        'Which emoji is "{name}" a variant of?',
        'What is the base emoji of "{name}"?',
        'Name the emoji "{name}" without gender and skin tone.',
    ),
}
CATEGORY = (
    'Which group does the emoji "{name}" belong to?',
    'What is the group of "{name}"?',
    'Name the emoji group of "{name}".',
)
YES_NO = (
    'Is the emoji "{name}" in the group {group}? Answer yes or no.',
    'Does "{name}" belong to {group}? Yes or no?',
    'Yes or no: "{name}" is in the group {group}.',
)
COUNT_NAMES = (
    "How many emoji are in this list: {names}?",
    "Count the names: {names}.",
    "Give the number of names in: {names}.",
)
COUNT_GROUP = (
    "How many of these are in the group {group}: {names}?",
    "Count the emoji of the group {group}: {names}.",
    "Give the number of names from {group} in: {names}.",
)
ALIAS = (
    'Which is another name of the emoji "{name}": {names}?',
    'Choose the other name of "{name}": {names}.',
    '"{name}" is also called: {names}. Which one is right?',
)
DEFINITION = (
    'What is the emoji "{name}"?',
    'Define the emoji "{name}".',
    'Explain in one sentence what "{name}" is.',
)
SYSTEM = (
    "You know the names of emoji. Answer briefly.",
    "Answer without explanation.",
    "Be exact and brief.",
)
