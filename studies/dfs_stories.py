"""Three fine-tunes of one small language model: parameter space, data-flow space and both.

    python studies/dfs_stories.py --data DIR [--jobs 2]

DIR has the checkpoints ``checkpoints/stories260K`` (5 layers, 260,032 parameters, trained on
TinyStories) and its fine-tunes on Shakespeare, The Wizard of Oz and mathematical word problems,
and texts of these four domains. A model is scored by its nats per token on held-out passages, the
mean over the domains; searches see the dev passages, those of the test are scored in the end.
Evolutionary model merge (Akiba et al., arXiv 2403.13187) runs in parameter space (PS), in
data-flow space (DFS) with and without scales, and in both; paths are searched by CMA-ES over
real indicators, as in the paper, and by a genetic algorithm over categorical ones. A finished run
is kept in ``runs/dfs_stories`` and not made again. Table, paths and their picture go to
``studies/dfs_stories``.

The stories of DIR may be among those that the base was trained on, and of the other texts it is
not known which parts the fine-tunes have seen: dev and test are held out from the merge only.
"""

from __future__ import annotations

from pathlib import Path

from _data_flow import data_of, finish, parser
from _passages import BASE, Pool

MODELS = {
    BASE: "stories260K",
    "shakespeare": "stories260K-shakespeare",
    "wizardofoz": "stories260K-wizardofoz",
    "gsm8k": "stories260K-gsm8k",
}


def main() -> None:
    """Runs what the command line asks for."""
    arguments = parser(__doc__).parse_args()
    places = [f"checkpoints/{place}" for place in MODELS.values()]
    data = data_of(arguments, *places)
    pool = Pool("dfs_stories", data, data / "checkpoints", tuple(MODELS.items()))
    title = "Five layers: stories260K and three fine-tunes of it"
    finish(pool, arguments, Path(__file__).with_suffix(""), title)


if __name__ == "__main__":
    main()
