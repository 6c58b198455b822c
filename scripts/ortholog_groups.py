#!/usr/bin/env python3
"""Groups the contigs of several species by the region of the first species that they share most k-mers with, so that
orthologous regions are learnt from or held out together. Writes a table for `serpens train classify --labels`: name,
label (the species: the file's name) and group (the contig of the first species), on standard output.

usage: ortholog_groups.py FIRST.fa OTHER.fa …"""

import collections
import csv
import pathlib
import sys

K = 24
STEP = 7  # of a contig, every seventh k-mer is looked up
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def records(path):
    name, lines = None, []
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            if name:
                yield name, "".join(lines).upper()
            name, lines = (line[1:].split() or ["?"])[0], []
        else:
            lines.append(line.strip())
    if name:
        yield name, "".join(lines).upper()


def kmers(sequence, step):
    for at in range(0, len(sequence) - K + 1, step):
        kmer = sequence[at : at + K]
        if "N" in kmer:
            continue
        yield min(kmer, kmer.translate(COMPLEMENT)[::-1])


def main():
    first, *others = map(pathlib.Path, sys.argv[1:])
    owner, regions = {}, list(records(first))
    for name, sequence in regions:
        for kmer in kmers(sequence, 1):
            owner[kmer] = None if kmer in owner and owner[kmer] != name else name  # those of one region only
    table = csv.writer(sys.stdout)
    table.writerow(["name", "label", "group"])
    for name, _ in regions:
        table.writerow([name, first.stem, name])
    lost = 0
    for path in others:
        for name, sequence in records(path):
            shared = collections.Counter(filter(None, (owner.get(kmer) for kmer in kmers(sequence, STEP))))
            best = shared.most_common(1)
            if not best or best[0][1] < 5:
                lost += 1
                continue
            table.writerow([name, path.stem, best[0][0]])
    print(f"{lost} contigs share too little with {first.name}", file=sys.stderr)


main()
