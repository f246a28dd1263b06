/* Memory that is as weak as these models need it.
 *
 * Every process has a buffer of stores, a place for each location: stores to
 * different locations reach memory in any order, stores to one location in theirs
 * (PSO). A process sees its own stores at once. `wmb` waits until what is before it
 * is in memory; so does `mb`, and loads are done in order but where a model takes
 * them early by itself (see `early`). A compare-and-swap is done in memory, past
 * what the process has in its buffer for other locations (as on arm64).
 *
 * A model defines LOCATIONS, and PROCESSES that store, then includes this.
 */
#define SLOT(p, l)	((p) * LOCATIONS + (l))

byte memory[LOCATIONS];
byte buffer[PROCESSES * LOCATIONS];
bool pending[PROCESSES * LOCATIONS];
byte waiting[PROCESSES];	/* stores of a process that are not in memory */

inline store(p, l, v)
{
	atomic {
		!pending[SLOT(p, l)];
		buffer[SLOT(p, l)] = v;
		pending[SLOT(p, l)] = true;
		waiting[p]++
	}
}

#define load(p, l)	(pending[SLOT(p, l)] -> buffer[SLOT(p, l)] : memory[l])

/* By a process that stores nothing. */
#define seen(l)	memory[l]

#define wmb(p)	(waiting[p] == 0)
#define mb(p)	(waiting[p] == 0)

/* done: whether memory had `old` and has `new` now. */
inline cas(p, l, old, new, done)
{
	atomic {
		!pending[SLOT(p, l)];
		if
		:: memory[l] == (old) -> memory[l] = new; done = true
		:: else -> done = false
		fi
	}
}

/* Buffers run into memory, any slot at any time. */
#define DRAIN(i) \
	:: atomic { \
		pending[(i) % SLOTS] && (i) < SLOTS -> \
		memory[(i) % LOCATIONS] = buffer[(i) % SLOTS]; \
		pending[(i) % SLOTS] = false; \
		waiting[((i) % SLOTS) / LOCATIONS]-- \
	}
#define SLOTS	(PROCESSES * LOCATIONS)

active proctype drain()
{
end:
	do
	DRAIN(0)
	DRAIN(1)
	DRAIN(2)
	DRAIN(3)
	DRAIN(4)
	DRAIN(5)
	DRAIN(6)
	DRAIN(7)
	DRAIN(8)
	DRAIN(9)
	DRAIN(10)
	DRAIN(11)
	DRAIN(12)
	DRAIN(13)
	DRAIN(14)
	DRAIN(15)
	DRAIN(16)
	DRAIN(17)
	DRAIN(18)
	DRAIN(19)
	DRAIN(20)
	DRAIN(21)
	DRAIN(22)
	DRAIN(23)
	DRAIN(24)
	DRAIN(25)
	DRAIN(26)
	DRAIN(27)
	DRAIN(28)
	DRAIN(29)
	DRAIN(30)
	DRAIN(31)
	od
}
