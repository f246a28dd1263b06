/* A write fault copies a page while a deferred flush leaves a writable TLB entry.
 *
 * Three CPUs. CPU 0 protects a page twice, CPU 1 protects it and then writes, CPU 2
 * writes twice. Who protects changes the PTE and flushes the TLBs later, CPU by CPU.
 * A fault reuses the page, or copies it, if somebody else has a reference. A stale
 * entry writes to the old page.
 *
 * Proved: in the end the page that the PTE maps has every write. As it is, a fault
 * flushes while a flush of the mm is pending; WRITE_LOCK: protection keeps faults out;
 * PTE_GENERATION: a fault flushes if the generation in the PTE's word is pending. The
 * generations wrap around at PERIOD.
 *
 * Broken: NO_FLUSH, ALWAYS_COPY (pages with a pending flush are not reused), UNWRAPPED
 * (generations are compared as if they never wrapped around), LAST_ENDED (the last flush
 * that ended counts as the completed one, though an earlier one has not ended).
 */
#define CPUS	3
#define FRAMES	7
#define PERIOD	3
#define REUSED	255
#if defined(UNWRAPPED) || defined(LAST_ENDED)
#define PTE_GENERATION
#endif

byte frame, stamp;		/* the PTE, and the generation in its word */
bool writable = true;
byte contents[FRAMES], references[FRAMES];
byte tlb[CPUS] = 1;		/* 1 + the frame of a writable entry, or 0 */
byte written, newest, ended;
bool begun[4];			/* by generation: its flush has not ended */
byte pending, readers, next_frame;
bool writer_locked;
byte finished;

inline completed(done)
{
#ifdef LAST_ENDED
	done = ended;
#else
	done = newest;
	if :: begun[3] -> done = 2 :: else fi;
	if :: begun[2] -> done = 1 :: else fi;
	if :: begun[1] -> done = 0 :: else fi;
#endif
}

inline flush_everywhere()
{
	tlb[0] = 0; tlb[1] = 0; tlb[2] = 0
}

/* Whether a fault takes a flush for pending. */
inline look(owed, done)
{
#if defined(NO_FLUSH) || defined(WRITE_LOCK)
	owed = false;
#elif defined(PTE_GENERATION)
	completed(done);
#ifdef UNWRAPPED
	owed = stamp > (done > 0 -> 1 + done % PERIOD : 0);
#else
	owed = stamp != 0 && (newest + 1 + PERIOD - stamp) % PERIOD < newest - done;
#endif
#else
	owed = pending > 0;
#endif
}

inline protect(me, generation)
{
#ifdef WRITE_LOCK
	atomic { !writer_locked && readers == 0 -> writer_locked = true;
#else
	atomic { readers++;
#endif
		newest++; generation = newest; begun[generation] = true; pending++
	}
	atomic {
		if
		:: writable -> writable = false; stamp = 1 + generation % PERIOD
		:: else
		fi
	}
	tlb[0] = 0;
	tlb[1] = 0;
	tlb[2] = 0;
	atomic {
		begun[generation] = false; ended = generation; pending--;
		generation = 0;
#ifdef WRITE_LOCK
		writer_locked = false
#else
		readers--
#endif
	}
}

inline write(me, from, to, owed, done)
{
	do
	:: atomic { tlb[me] != 0 ->
		contents[tlb[me] - 1]++; written++; break }
	:: atomic { tlb[me] == 0 && writable ->
		tlb[me] = frame + 1; contents[frame]++; written++; break }
	:: atomic { tlb[me] == 0 && !writable && !writer_locked ->
		look(owed, done);
		from = frame;
		if
		:: owed ->
#ifndef ALWAYS_COPY
			flush_everywhere(); stamp = 0
#endif
		:: else
		fi;
		if
#ifdef ALWAYS_COPY
		:: references[from] == 0 && !owed ->
#else
		:: references[from] == 0 ->
#endif
			writable = true; stamp = 0; to = REUSED
		:: true -> readers++; references[from]++; next_frame++; to = next_frame
		fi;
		owed = false; done = 0 }
		if
		:: to == REUSED
		:: else ->
			contents[to] = contents[from];
			atomic {
				references[from]--;
				if
				:: frame == from && !writable ->
					flush_everywhere();
					frame = to; writable = true; stamp = 0
				:: else -> if :: to == next_frame -> next_frame-- :: else fi
				fi;
				readers--
			}
		fi;
		from = 0; to = 0
	od
}

inline finish()
{
	atomic {
		finished++;
		assert(finished < CPUS || contents[frame] == written)
	}
}

proctype cpu0()
{
	byte generation;

	protect(0, generation);
	protect(0, generation);
	finish()
}

proctype cpu1()
{
	byte generation, from, to, done;
	bool owed;

	protect(1, generation);
	write(1, from, to, owed, done);
	finish()
}

proctype cpu2()
{
	byte from, to, done;
	bool owed;

	write(2, from, to, owed, done);
	write(2, from, to, owed, done);
	finish()
}

init
{
	atomic { run cpu0(); run cpu1(); run cpu2() }
}
