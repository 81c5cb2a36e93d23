"""Edit portraits of the shipped generator step by step: what was not asked for stays.

python examples/portraits.py
"""

from __future__ import annotations

import argparse

import lace_lightning as lace


def main() -> None:
    """Fit and edit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--output", default="portraits")
    options = parser.parse_args()
    generator, judge = lace.load_generator("portraits_generator"), lace.Labeler("portraits_judge")
    attributes = ["smile", "glasses", "haircolor", "age"]
    classifier = lace.fit(generator, "portraits_labeler", attributes, num_pairs=options.pairs)
    edits = ["smile == yes", "haircolor == red", "age == 0.8", "smile == no"]
    steps = lace.edit(generator, classifier, edits, seeds=range(options.count), judge=judge)
    for number, samples in enumerate(steps):
        samples.save(f"{options.output}/{number}")
    for edit, samples in zip(edits, steps[1:], strict=True):
        share = sum(row["holds"] for row in samples.table) / options.count
        print(f"{edit}: the judge sees it in {share:.0%}")

    # The editor itself takes back and takes out.
    editor = lace.Editor(generator, classifier, lace.samplers.Heun(), lace.EditOptions(weight=6))
    state = editor.begin(generator.prior(options.count))
    for edit in edits[:3]:
        state = editor.apply(state, edit)
    without_red_hair = editor.without(state, "haircolor == red")
    print(f"in force: {', '.join(map(str, without_red_hair.edits))}")


if __name__ == "__main__":
    main()
