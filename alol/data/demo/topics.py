"""What the demo's corpus is about: topics, each with its facts and the ways to ask for them and to state them.

A topic's `mix` says how often its questions were answered in each way, so that some topics are answered mostly well
and others mostly badly. Nothing here draws at random: see alol.data.formats.demo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

POLITE, CURT, RAMBLING, EVASIVE, WRONG, RUDE = "polite", "curt", "rambling", "evasive", "wrong", "rude"
KINDS = (POLITE, CURT, RAMBLING, EVASIVE, WRONG, RUDE)  # ways to answer; polite and curt answers are right

BAD = (EVASIVE, WRONG, RUDE)

Mix = tuple[int, int, int, int, int, int]  # percent, in the order of KINDS
WELL: Mix = (38, 24, 18, 12, 5, 3)
FAIRLY: Mix = (15, 17, 28, 28, 7, 5)
EVADED: Mix = (9, 11, 13, 53, 6, 8)
WORDY: Mix = (12, 10, 50, 17, 7, 4)
MISTAKEN: Mix = (12, 14, 15, 22, 29, 8)
RUDELY: Mix = (10, 15, 16, 22, 7, 30)


@dataclass(frozen=True)
class Fact:
    """`parts` fill {0}, {1}, ... of the topic's templates; `rivals` are wrong answers of this fact alone."""

    parts: tuple[str, ...]
    answer: str
    rivals: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    name: str
    subject: str  # a plural noun
    mix: Mix
    questions: tuple[str, ...]
    statement: str  # the answer as a whole sentence
    facts: tuple[Fact, ...]

    def answers(self) -> list[str]:
        return sorted({fact.answer for fact in self.facts})


def _facts(table: str) -> tuple[Fact, ...]:
    """Facts from "part/part=answer, ..."."""
    pairs = (entry.strip().split("=") for entry in table.split(","))
    return tuple(Fact(tuple(key.split("/")), answer, ()) for key, answer in pairs)


def _comparisons(table: str) -> Iterator[Fact]:
    """Facts from "adjective: winner loser, ..."; every other question names the loser first."""
    for i, entry in enumerate(table.split(",")):
        adjective, pair = entry.strip().split(": ")
        winner, loser = pair.split()
        named = (winner, loser) if i % 2 else (loser, winner)
        yield Fact((adjective, *named), winner, (loser,))


def _requests(table: str) -> Iterator[Fact]:
    """Facts from "recipient/thing, ..."."""
    for entry in table.split(","):
        recipient, thing = entry.strip().split("/")
        yield Fact((recipient, thing), f"I would like to ask for {thing}", ())


TOPICS = (
    Topic(
        "capitals",
        "capitals",
        WELL,
        ("What is the capital of {0}?", "Which city is the capital of {0}?", "Tell me the capital of {0}."),
        "The capital of {0} is {answer}.",
        _facts(
            "France=Paris, Italy=Rome, Spain=Madrid, Germany=Berlin, Japan=Tokyo, Egypt=Cairo, Greece=Athens, "
            "Austria=Vienna, Norway=Oslo, Poland=Warsaw, Peru=Lima, Cuba=Havana, Kenya=Nairobi, India=Delhi"
        ),
    ),
    Topic(
        "sounds",
        "animal sounds",
        RUDELY,
        ("What sound does the {0} make?", "How does the {0} sound?", "What does the {0} say?"),
        "The {0} says {answer}.",
        _facts(
            "cow=moo, cat=meow, dog=woof, sheep=baa, pig=oink, duck=quack, horse=neigh, owl=hoot, lion=roar, "
            "snake=hiss, bee=buzz, rooster=crow, frog=croak, chick=cheep"
        ),
    ),
    Topic(
        "young",
        "young animals",
        FAIRLY,
        ("What is a young {0} called?", "What do you call the young of the {0}?", "Name the young of the {0}."),
        "A young {0} is called a {answer}.",
        _facts(
            "cow=calf, cat=kitten, dog=puppy, sheep=lamb, pig=piglet, duck=duckling, horse=foal, goat=kid, lion=cub, "
            "deer=fawn, swan=cygnet, goose=gosling, kangaroo=joey, frog=tadpole"
        ),
    ),
    Topic(
        "colours",
        "colours",
        WELL,
        ("What colour is {0}?", "What is the usual colour of {0}?", "Tell me the colour of {0}."),
        "The colour of {0} is {answer}.",
        _facts(
            "grass=green, snow=white, coal=black, blood=red, butter=yellow, chocolate=brown, a clear sky=blue, "
            "a flamingo=pink, an elephant=grey, a carrot=orange, a plum=purple, milk=white, a lemon=yellow, "
            "a frog=green"
        ),
    ),
    Topic(
        "opposites",
        "opposites",
        EVADED,
        ("What is the opposite of {0}?", "Which word is the opposite of {0}?", "Give me the opposite of {0}."),
        "The opposite of {0} is {answer}.",
        _facts(
            "hot=cold, big=small, fast=slow, heavy=light, open=closed, wet=dry, loud=quiet, rich=poor, north=south, "
            "winter=summer, empty=full, smooth=rough, sweet=bitter, strong=weak"
        ),
    ),
    Topic(
        "sums",
        "sums",
        MISTAKEN,
        ("What is {0}?", "How much is {0}?", "Work out {0}.", "Calculate {0}."),
        "{0} is {answer}.",
        _facts(
            "2 plus 2=4, 3 plus 2=5, 4 plus 2=6, 3 plus 4=7, 5 plus 3=8, 4 plus 5=9, 6 plus 4=10, 6 plus 5=11, "
            "7 plus 5=12, 9 plus 4=13, 8 plus 6=14, 8 plus 7=15, 9 plus 7=16, 9 plus 8=17"
        ),
    ),
    Topic(
        "plurals",
        "plurals",
        EVADED,
        ("What is the plural of {0}?", "How do I write the plural of {0}?", "Give me the plural of {0}."),
        "The plural of {0} is {answer}.",
        _facts(
            "mouse=mice, child=children, foot=feet, tooth=teeth, goose=geese, man=men, woman=women, ox=oxen, "
            "leaf=leaves, knife=knives, wolf=wolves, loaf=loaves, shelf=shelves, city=cities"
        ),
    ),
    Topic(
        "units",
        "units",
        WORDY,
        ("How many {0} are there in {1}?", "How many {0} make {1}?", "Convert {1} to {0}."),
        "There are {answer} {0} in {1}.",
        _facts(
            "minutes/an hour=60, hours/a day=24, days/a week=7, months/a year=12, weeks/a year=52, "
            "metres/a kilometre=1000, years/a century=100, millimetres/a centimetre=10, inches/a foot=12, "
            "feet/a yard=3, grams/a kilogram=1000, days/a leap year=366, ounces/a pound=16, pints/a gallon=8"
        ),
    ),
    Topic(
        "months",
        "months",
        WELL,
        ("Which month comes after {0}?", "What month follows {0}?", "Name the month after {0}."),
        "The month after {0} is {answer}.",
        _facts(
            "January=February, February=March, March=April, April=May, May=June, June=July, July=August, "
            "August=September, September=October, October=November, November=December, December=January"
        ),
    ),
    Topic(
        "days",
        "weekdays",
        FAIRLY,
        ("Which day comes right {0} {1}?", "What day is it on the day {0} {1}?", "Name the day {0} {1}."),
        "The day {0} {1} is {answer}.",
        _facts(
            "after/Monday=Tuesday, after/Tuesday=Wednesday, after/Wednesday=Thursday, after/Thursday=Friday, "
            "after/Friday=Saturday, after/Saturday=Sunday, after/Sunday=Monday, before/Monday=Sunday, "
            "before/Tuesday=Monday, before/Wednesday=Tuesday, before/Thursday=Wednesday, before/Friday=Thursday, "
            "before/Saturday=Friday, before/Sunday=Saturday"
        ),
    ),
    Topic(
        "cooking",
        "recipes",
        WORDY,
        ("How long should I cook {0}?", "For how long do I need to cook {0}?", "What is the cooking time of {0}?"),
        "Cook {0} for {answer}.",
        _facts(
            "an egg=eight minutes, rice=fifteen minutes, pasta=ten minutes, spinach=two minutes, peas=three minutes, "
            "broccoli=five minutes, potatoes=twenty minutes, beets=forty minutes, lentils=twenty minutes, "
            "porridge=five minutes, a stew=two hours, a pizza=ten minutes, salmon=fifteen minutes, a roast=two hours"
        ),
    ),
    Topic(
        "gardening",
        "gardens",
        EVADED,
        ("When should I plant {0}?", "Which month is best for planting {0}?", "In which month do I plant {0}?"),
        "Plant {0} in {answer}.",
        _facts(
            "tulips=October, garlic=November, onions=March, carrots=April, beans=June, kale=July, lettuce=March, "
            "strawberries=August, daffodils=September, cabbage=April, roses=November, leeks=April, corn=June, "
            "apples=November"
        ),
    ),
    Topic(
        "e-mails",
        "e-mails",
        WORDY,
        (
            "Write a short e-mail to my {0} to request {1}.",
            "Draft a polite note for my {0} about {1}.",
            "My {0} should give me {1}. Write the e-mail.",
        ),
        "Dear {0}, {answer}.",
        tuple(
            _requests(
                "boss/a day off, teacher/more time, landlord/a new key, neighbour/some quiet, doctor/an appointment, "
                "bank/a new card, client/a meeting, dentist/a later visit, coach/a place in the team, lawyer/a copy, "
                "editor/a second look, tutor/an extra lesson"
            )
        ),
    ),
    Topic(
        "definitions",
        "definitions",
        FAIRLY,
        ("What does the word {0} mean?", "What is the meaning of {0}?", "Explain the word {0}."),
        "The word {0} means {answer}.",
        _facts(
            "tiny=very small, huge=very large, weary=very tired, swift=very quick, ancient=very old, "
            "furious=very angry, famished=very hungry, arid=very dry, frigid=very cold, silent=without sound, "
            "vacant=with nobody inside, rapid=very quick, gigantic=very large, soaked=very wet"
        ),
    ),
    Topic(
        "comparisons",
        "comparisons",
        MISTAKEN,
        ("Which is {0}, the {1} or the {2}?", "What is {0}: the {1} or the {2}?", "Is the {1} or the {2} {0}?"),
        "Of the two, the {answer} is {0}.",
        tuple(
            _comparisons(
                "bigger: elephant mouse, faster: cheetah turtle, taller: giraffe rabbit, heavier: whale shark, "
                "hotter: oven fridge, brighter: sun moon, longer: river brook, harder: diamond chalk, "
                "higher: mountain hill, deeper: ocean pond, louder: trumpet flute, sharper: razor spoon"
            )
        ),
    ),
    Topic(
        "letters",
        "spellings",
        RUDELY,
        ("How many letters are in the word {0}?", "Count the letters of {0}.", "How many letters does {0} have?"),
        "The word {0} has {answer} letters.",
        _facts(
            "sun=three, hat=three, book=four, tree=four, apple=five, house=five, garden=six, window=six, "
            "morning=seven, kitchen=seven, mountain=eight, elephant=eight, chocolate=nine, crocodile=nine"
        ),
    ),
    Topic(
        "homes",
        "animal homes",
        FAIRLY,
        ("Where does the {0} live?", "What is the home of the {0} called?", "Name the home of the {0}."),
        "The home of the {0} is the {answer}.",
        _facts(
            "bee=hive, bird=nest, spider=web, dog=kennel, horse=stable, pig=sty, fox=den, rabbit=burrow, "
            "beaver=lodge, hen=coop, fish=sea, camel=desert, monkey=jungle, polar bear=arctic"
        ),
    ),
    Topic(
        "tools",
        "tools",
        WELL,
        ("What do I need to {0}?", "Which tool is used to {0}?", "Name the right tool to {0}."),
        "To {0}, use a {answer}.",
        _facts(
            "drive in a nail=hammer, cut wood=saw, turn a screw=screwdriver, dig a hole=shovel, "
            "sweep the floor=broom, paint a wall=brush, measure a table=ruler, boil water=kettle, open a lock=key, "
            "dry my hair=towel, sew a button=needle, light a candle=match, see the stars=telescope, eat soup=spoon"
        ),
    ),
)
