"""What epochs hold, in bytes a page, beside the bitmaps that one bit needs.

    python benchmarks/epochs.py                     # on 16,384 pages, and on captures
    python benchmarks/epochs.py --pages 2048 --captures

RAM is the most that an encoding held beyond page tables without words, at any time of
24 snapshots with deltas against any of the last ten. Bitmaps are ten bits a page in user
memory. `extmeta compare --workload epochs` has the times.
"""

import argparse

import options

import extmeta as em
from extmeta.cost import forms
from extmeta.workloads import Epochs, of_capture, play, synthetic
from extmeta.workloads.recording import Replay

FORMS = ("linked", "adaptive", "adjacent", "wide", "page_ext", "xarray", "hash")
CAPTURES = ("redis", "java")
WAYS = (
    {},
    {"placement": "random"},
    {"dirty": 0.001},
    {"trackers": 3},
    {"how": "WP_ASYNC"},
    {"how": "soft-dirty"},
)


def bytes_a_page(load, process, text):
    """Return the most that an encoding held beyond the page tables, a page."""
    result = play(load, process, text)
    plain = em.PageTable("linked", result.fields, process.arch)
    plain.map(process.pages)
    replay = Replay(result.recording, forms.form(text), result.fields, process.arch)
    held = replay.verify().max() - plain.memory().total
    return held / len(process.pages)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=options.from_1, default=16_384)
    parser.add_argument("--captures", nargs="*", type=options.capture)
    args = parser.parse_args()
    captures = args.captures
    if captures is None:
        captures = [options.capture(name) for name in CAPTURES]
    processes = [synthetic(args.pages)]
    processes += [of_capture(*found) for found in captures]
    for process in processes:
        print(f"{process.name}, {len(process.pages):,} pages; bytes a page")
        print(f"{'':24}{'bitmaps':>9}" + "".join(f"{text:>10}" for text in FORMS))
        for way in WAYS:
            load = Epochs(snapshots=24, **way)
            name = ", ".join(f"{k}={v}" for k, v in way.items()) or "epochs"
            bitmaps = load.bitmap_bytes(process) / len(process.pages)
            cells = [f"{bytes_a_page(load, process, text):10.2f}" for text in FORMS]
            print(f"{name:24}{bitmaps:9.2f}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
