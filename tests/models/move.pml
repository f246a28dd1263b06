/* An entry moves with its word from one table to another; and is read meanwhile.
 *
 * At its new place it shows without its flag first: to who trusts an entry without a
 * flag alone, a mapped page that has no word, which never was. So a move counts
 * before and after in one place of the page table, and who reads compares.
 *
 * Proved: where a reader finds the entry, at either place, it has its word.
 *
 * Broken: NO_COUNT (the move does not count), NO_RECHECK, NO_WMB (the count and the
 * tables in no order).
 */
#define LOCATIONS	5
#define PROCESSES	1
#include "weak.pml"

#define MOVES	0
#define PTE	1	/* PTE + side: 0 none, 1 mapped, 3 mapped with its flag */
#define WORD	3	/* WORD + side */

proctype mover()
{
	byte from, to, i;

	for (i : 1 .. 2) {
#ifndef NO_COUNT
		store(0, MOVES, 2 * i - 1);
#endif
#ifndef NO_WMB
		wmb(0);
#endif
		to = 1 - from;
		store(0, PTE + from, 1);	/* without its word it moves as it is */
		store(0, WORD + from, 0);
		store(0, PTE + to, 1);
		store(0, PTE + from, 0);
		store(0, WORD + to, 7);
		wmb(0);
		store(0, PTE + to, 3);
#ifndef NO_WMB
		wmb(0);
#endif
#ifndef NO_COUNT
		store(0, MOVES, 2 * i);
#endif
		from = to
	}
}

proctype reader(byte side)
{
	byte moves, pte, word, again, i;

	for (i : 1 .. 2) {
		moves = seen(MOVES);
		if
		:: moves & 1
		:: else ->
			pte = seen(PTE + side);
			word = 0;
			if
			:: pte == 3 -> word = seen(WORD + side)
			:: else
			fi;
			again = seen(MOVES);
#ifdef NO_RECHECK
			again = moves;
#endif
			if
			:: again == moves ->
				assert(!pte || (pte == 3 && word == 7))
			:: else
			fi
		fi
	}
}

init
{
	atomic {
		memory[PTE] = 3;
		memory[WORD] = 7;
		run mover();
		run reader(0);
		run reader(1)
	}
}
