"""What an encoding outside this package cimports, under one name each."""
from extmeta.encodings.side cimport makes_a_word
from extmeta.memory.frames cimport Frames, Ptdesc, entries
from extmeta.memory.slabs cimport Slabs
from extmeta.table.encoding cimport (
    ALONE, ALWAYS, COUNTED, Encoding, FLAGGED, LOCKED, Lookups, MAX_LANES, NEVER,
    TOGETHER, WHEN_ADDING, Write,
)
from extmeta.table.pte cimport PteLayout, flag_of
from extmeta.table.vpns cimport Run, entry_at
