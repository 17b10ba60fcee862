"""What each number means, in plain words: what is asked, where the scale begins and ends, and how it misleads.

Keyed by the beginning of a metric's name; a metric unknown here is explained by its own file, or shown without words.
"""

from __future__ import annotations

from dataclasses import dataclass

LIKELY, ALIKE, VARIED, TOLD, COPIED, OTHER = GROUPS = (
    "How likely is real data?",
    "Do samples resemble real data?",
    "Is all of its variety there?",
    "Do samples carry their label?",
    "Are they copies?",
    "Other figures",
)


@dataclass(frozen=True)
class Meaning:
    """One metric's explanation.

    Args:
        group: the wider question it belongs to, one of GROUPS.
        asks: the question it answers.
        scale: its ends, and what ordinary values look like.
        trap: how it misleads.
        source: where it comes from.
    """

    group: str
    asks: str
    scale: str = ""
    trap: str = ""
    source: str = ""


MEANINGS: dict[str, Meaning] = {
    "bits/dim": Meaning(
        LIKELY,
        "How surprised is the model by real data it has never seen? The bits it needs to write down one grey level of a held-"
        "out picture.",
        "Lower is better; 0 would mean knowing every pixel beforehand, and log2 of the number of grey levels is knowing nothing"
        " at all.",
        "Only systems with a likelihood have it, a GAN has none. An exact value, a bound (ELBO: never below the truth) and a "
        "tighter bound (IWAE-k) are different quantities, and so are figures given and not given the label; they are kept apart"
        " here. Good bits do not promise good pictures.",
        "Theis et al. 2016",
    ),
    "bits/dim given": Meaning(
        LIKELY,
        "The same, when the model is told the label first. It has one thing less to guess, so this is the smaller figure.",
        "Lower is better.",
        "Not to be set beside figures that were not given the label.",
    ),
    "bits/dim IWAE": Meaning(
        LIKELY,
        "The same by a bound that is closer to the truth: it averages many guesses of the hidden cause of each picture.",
        "Lower is better; never above the ELBO by more than chance, and never below the truth.",
        "More guesses give a smaller figure, so their number is part of its name.",
        "Burda et al. 2016",
    ),
    "bits/byte": Meaning(
        LIKELY,
        "How well does the model predict text it has never seen? The bits it needs for one byte of it, so that models with "
        "unlike tokenizers can be compared.",
        "Lower is better; 8 is knowing nothing. On program text a good general compressor needs about 1.4 when it has seen the "
        "training part.",
        "It depends on how much context the model may look back on, and on whether files that resemble the held-out ones were "
        "trained on.",
        "Gao et al. 2020",
    ),
    "FD-": Meaning(
        ALIKE,
        "Seen through a feature network (named after the dash), do the samples have the same average and spread as held-out "
        "real data?",
        "Lower is better. 0 is perfect, yet real training rows do not reach it at a finite number of rows: compare with their "
        "figure.",
        "It sees only mean and covariance, so it can be fooled, and a system that copies its training rows wins it. It depends "
        "on the network and on the number of samples, so figures from other networks, FID among them, cannot be set beside it.",
        "Dowson & Landau 1982; Heusel et al. 2017",
    ),
    "FD-randconv": Meaning(
        ALIKE,
        "Do samples and held-out data look alike to a network that was never trained? The data has no labels to train one on.",
        "Lower is better; 0 is perfect.",
        "A weak figure: it sees textures and strokes, not what a picture shows.",
    ),
    "precision": Meaning(
        ALIKE,
        "Do the samples look real? The share of samples that fall among the held-out rows.",
        "Higher is better, 1 is all. Held-out rows themselves would not reach 1.",
        "A system that makes one good picture over and over has high precision: read it with recall.",
        "Kynkäänniemi et al. 2019",
    ),
    "recall": Meaning(
        VARIED,
        "Is the whole variety there? The share of held-out rows that fall among the samples.",
        "Higher is better, 1 is all.",
        "Samples scattered widely, noise among them, can reach much: read it with precision.",
        "Kynkäänniemi et al. 2019",
    ),
    "density": Meaning(
        ALIKE,
        "How deep within the real data do samples lie? Like precision, but one odd real row cannot raise it.",
        "Higher is better; real data has about 1, and it may pass 1.",
        "Above 1 is not better than real: it means samples crowd where the data is densest.",
        "Naeem et al. 2020",
    ),
    "coverage": Meaning(
        VARIED,
        "How much of the real data has a sample close by? Like recall, but scattered samples cannot raise it.",
        "Higher is better; about .97 is as full as it gets with 5 neighbours.",
        "It grows with the number of samples: only compare equal numbers, as here.",
        "Naeem et al. 2020",
    ),
    "GAN-train": Meaning(
        TOLD,
        "Could the samples stand in for real data? A classifier learns from samples alone and is then tested on real held-out "
        "rows.",
        "Higher is better; the ceiling is the same classifier taught with real rows.",
        "It falls when samples carry the wrong label or lack variety. It says nothing about how they look, and copying helps it.",
        "Shmelkov et al. 2018",
    ),
    "GAN-test": Meaning(
        TOLD,
        "Do the samples show what was asked for? A classifier taught with real rows reads the samples.",
        "Higher is better, 1 means that every sample shows its label.",
        "One clear picture per class is enough for 1, and so is copying: read it with recall.",
        "Shmelkov et al. 2018",
    ),
    "C2ST": Meaning(
        ALIKE,
        "Can a classifier tell samples from real held-out rows? The chance that it ranks a sample as more artificial than a "
        "real row.",
        "Lower is better. .5 is a coin toss, 1 is telling them apart every time.",
        "It is as strict as its judge is strong, and every judge is blind to something.",
        "Lopez-Paz & Oquab 2017",
    ),
    "C2ST forest": Meaning(
        ALIKE,
        "Can a random forest tell samples from real held-out rows? The chance that it ranks a sample as more artificial than a "
        "real row.",
        "Lower is better. .5 is a coin toss, 1 is telling them apart every time.",
        "A forest sees mostly single pixels: it catches grey levels that do not occur, and misses strokes that make no sense.",
        "Lopez-Paz & Oquab 2017",
    ),
    "C2ST convnet": Meaning(
        ALIKE,
        "The same question, put to a small convolutional network.",
        "Lower is better. .5 is a coin toss, 1 is telling them apart every time.",
        "It sees strokes and edges that the forest misses, yet it learns from few rows: a larger judge would be stricter.",
        "Lopez-Paz & Oquab 2017",
    ),
    "NN distance": Meaning(
        COPIED,
        "How far is a sample from the training row it resembles most? (Euclid's distance, pixels from 0 to 1.)",
        "Best is the distance that real held-out rows have. Far below is copying; far above is blur or noise.",
        "It measures pixel by pixel: a copy that was moved by one pixel goes unseen.",
    ),
    "NN ratio": Meaning(
        COPIED,
        "Does the system copy? The samples' distance to their nearest training row, divided by what real held-out rows have.",
        "1 is what honest samples have. Well below 1 is copying, well above is blur or noise.",
        "It measures pixel by pixel: a copy that was moved by one pixel goes unseen.",
    ),
    "copies": Meaning(
        COPIED,
        "How many samples are closer to a training row than all but 1 % of real held-out rows are?",
        "About .01 is what honest samples have; more is copying.",
        "It measures pixel by pixel: a copy that was moved by one pixel goes unseen.",
    ),
}


def explain(metric: str) -> Meaning | None:
    """The explanation whose key is the longest beginning of the metric's name; else what the metric's own file says."""
    fitting = [key for key in MEANINGS if metric.lower().startswith(key.lower())]
    if fitting:
        return MEANINGS[max(fitting, key=len)]
    from maquette.metrics import meaning

    told = meaning(metric)
    return Meaning(OTHER, told) if told else None
