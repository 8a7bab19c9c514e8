"""Facts that a small language model knows, as prompts with one word to add. Written for this repository; none is copied from a data set."""

SPLITS = ("train", "valid", "test")

# A sentence for each kind, and its pairs.
KINDS = [
    (
        "The capital of {} is",
        """France Paris, Germany Berlin, Spain Madrid, Italy Rome, Japan Tokyo, China Beijing, Russia Moscow, Egypt Cairo, Greece Athens,
        Portugal Lisbon, Austria Vienna, Poland Warsaw, Hungary Budapest, Ireland Dublin, England London, Scotland Edinburgh,
        Norway Oslo, Sweden Stockholm, Denmark Copenhagen, Finland Helsinki, Belgium Brussels, Turkey Ankara, Iran Tehran,
        Iraq Baghdad, Canada Ottawa, Cuba Havana, Peru Lima, Chile Santiago, Kenya Nairobi, Thailand Bangkok, Jordan Amman,
        Australia Canberra, Afghanistan Kabul, Lebanon Beirut, Syria Damascus, Venezuela Caracas""",
    ),
    (
        "The opposite of {} is",
        """hot cold, big small, up down, left right, day night, black white, good bad, old new, open closed, happy sad, fast slow,
        high low, hard soft, wet dry, true false, early late, rich poor, strong weak, light dark, long short, full empty, in out,
        first last, love hate, war peace, win lose, yes no, north south, east west, inside outside, male female, positive negative,
        always never, before after, above below, near far""",
    ),
    (
        "The month after {} is",
        """January February, February March, March April, April May, May June, June July, July August, August September,
        September October, October November, November December, December January""",
    ),
    (
        "The day after {} is",
        """Monday Tuesday, Tuesday Wednesday, Wednesday Thursday, Thursday Friday, Friday Saturday, Saturday Sunday,
        Sunday Monday""",
    ),
    (
        "The number after {} is",
        """one two, two three, three four, four five, five six, six seven, seven eight, eight nine, nine ten, ten eleven,
        eleven twelve, twelve thirteen""",
    ),
    (
        "The plural of {} is",
        """cat cats, dog dogs, book books, car cars, tree trees, child children, man men, woman women, mouse mice, foot feet, tooth teeth,
        house houses, box boxes, city cities, baby babies, leaf leaves, knife knives, goose geese, person people, bird birds""",
    ),
    (
        "The past tense of {} is",
        """go went, see saw, eat ate, take took, give gave, run ran, write wrote, speak spoke, break broke, drink drank, sing sang, swim swam,
        fly flew, know knew, grow grew, make made, come came, find found, buy bought, think thought""",
    ),
    (
        "The young of a {} is called a",
        """dog puppy, cat kitten, cow calf, sheep lamb, horse foal, bear cub, deer fawn, goat kid, duck duckling, frog tadpole""",
    ),
    (
        "People in {} mostly speak",
        """France French, Germany German, Italy Italian, Japan Japanese, Russia Russian, Greece Greek, Poland Polish, Sweden Swedish,
        Mexico Spanish, Brazil Portuguese, Egypt Arabic, Turkey Turkish, Hungary Hungarian, Finland Finnish""",
    ),
]


def facts():
    """(prompt, answer) by split. Every kind is dealt out to the splits in turn, two fifths each to valid and test."""
    splits = {split: [] for split in SPLITS}
    for sentence, pairs in KINDS:
        for at, pair in enumerate(pairs.split(",")):
            given, answer = pair.split()
            splits[("valid", "test", "valid", "test", "train")[at % 5]].append((sentence.format(given), answer))
    return splits
