/* A container is replaced by another one, and its memory given back.
 *
 * The writer fills a new container, links it, and then looks at the readers' slots:
 * nobody there, the old one is free at once; else it waits in limbo with the epoch
 * of its unlinking until all readers who came up to then are gone. A reader puts its
 * epoch in its slot, follows the link, and takes its epoch out.
 *
 * Proved: no reader looks into memory that is free or not filled yet; and in the end
 * all is free but what is linked.
 *
 * Broken: NO_WMB (linked before it is filled), NO_WRITER_MB, NO_READER_MB (neither
 * sees the other), NO_GRACE (free at once), ANY_EPOCH (waits for nobody who came
 * before).
 */
#define LOCATIONS	5
#define PROCESSES	3	/* the writer, two readers */
#include "weak.pml"

#define LINK	0
#define DATA	1	/* of container c: DATA + c */
#define SLOT_OF	2	/* of reader r = 1, 2: SLOT_OF + r */
#define CHANGES	2

byte now = 1;		/* the epoch; only changed by atomic additions */
bool is_free[2];
byte holds[2];		/* the version that a container was filled with */
byte limbo, since;	/* container + 1 that waits, and from when on */

inline reclaim_limbo()
{
	if
	:: limbo ->
		one = load(0, SLOT_OF + 1);
		two = load(0, SLOT_OF + 2);
#ifdef ANY_EPOCH
		one = 0;
		two = 0;
#endif
		if
		:: (!one || one > since) && (!two || two > since) ->
			is_free[limbo - 1] = true;
			limbo = 0
		:: else
		fi
	:: else
	fi
}

proctype writer()
{
	byte i, old, new, one, two;

	for (i : 1 .. CHANGES) {
		old = load(0, LINK);
		new = 1 - old;
		do
		:: is_free[new] -> break
		:: else -> reclaim_limbo()
		od;
		atomic { is_free[new] = false; holds[new] = i + 1 }
		store(0, DATA + new, i + 1);
#ifndef NO_WMB
		wmb(0);
#endif
		store(0, LINK, new);
#ifndef NO_WRITER_MB
		mb(0);
#endif
#ifdef NO_GRACE
		is_free[old] = true
#else
		one = load(0, SLOT_OF + 1);
		two = load(0, SLOT_OF + 2);
		if
		:: one || two ->
			atomic { since = now; now++ }
			limbo = old + 1
		:: else -> is_free[old] = true
		fi
#endif
	}
	do
	:: limbo -> reclaim_limbo()
	:: else -> break
	od;
	assert(is_free[0] + is_free[1] == 1 && !is_free[load(0, LINK)])
}

proctype reader(byte me)
{
	byte c, i;

	for (i : 1 .. 2) {
		c = now;
		store(me, SLOT_OF + me, c);
#ifndef NO_READER_MB
		mb(me);
#endif
		c = load(me, LINK);
		atomic {
			assert(!is_free[c]);
			assert(load(me, DATA + c) == holds[c])
		}
		store(me, SLOT_OF + me, 0)
	}
}

init
{
	atomic {
		memory[DATA] = 1;
		holds[0] = 1;
		is_free[1] = true;
		run writer();
		run reader(1);
		run reader(2)
	}
}
