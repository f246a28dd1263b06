"""fork(2) of this process: its page tables stay usable in parent and child.

The child has one thread, and copies of locks that other threads may have held. So
os.fork() locks all page tables meanwhile. Lockless readers need no wait: they change
nothing, and the child forgets them.

A fork by C code that calls fork(2) itself is not covered.
"""
import os
import threading
import time
from weakref import WeakSet

from libc.stdint cimport uint64_t

from extmeta.memory.epoch cimport forget_readers
from extmeta.memory.frames cimport pthread_mutex_t
from extmeta.table.locking cimport Locking, pthread_cond_init

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutexattr_t:
        pass
    enum:
        PTHREAD_MUTEX_RECURSIVE
    int pthread_mutexattr_init(pthread_mutexattr_t*)
    int pthread_mutexattr_settype(pthread_mutexattr_t*, int)
    int pthread_mutexattr_destroy(pthread_mutexattr_t*)
    int pthread_mutex_init(pthread_mutex_t*, pthread_mutexattr_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    uint64_t this_thread "pthread_self"()


# Between two attempts, so that an encoding in Python can end its operation.
PAUSE_SECONDS = 0.0005

tables = WeakSet()
one_fork = threading.Lock()
held = []


def register(table):
    """Have forks of the process wait for operations on a page table."""
    tables.add(table)


def release():
    cdef Locking t
    while held:
        t = held.pop()
        t.leave()


def take_all():
    """Lock all page tables; return False if it has to be tried again."""
    cdef Locking t
    found = list(tables)
    # An encoding in Python may take any other lock. So lock these first, and don't
    # wait for one with others held.
    for t in found:
        if t.calls_python and t.owner != this_thread():
            if pthread_mutex_trylock(t.mutex):
                return False
            held.append(t)
    for t in found:
        if not t.calls_python:
            t.enter()
            held.append(t)
    # Other threads ran while this one waited, and may have made page tables.
    return tables <= set(found)


def before():
    one_fork.acquire()
    while not take_all():
        release()
        time.sleep(PAUSE_SECONDS)


def in_parent():
    release()
    one_fork.release()


def in_child():
    cdef pthread_mutexattr_t kind
    cdef Locking t
    forget_readers()
    pthread_mutexattr_init(&kind)
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE)
    while held:
        t = held.pop()
        # The child has none of the threads that waited.
        t.nr_waiting = t.nr_waiting_for_all = 0
        pthread_cond_init(&t.gone, NULL)
        # The mutex of page tables that share pages is recursive: it names its thread.
        pthread_mutex_init(t.mutex, NULL if t.mutex == &t.lock else &kind)
    pthread_mutexattr_destroy(&kind)
    one_fork.release()


os.register_at_fork(
    before=before, after_in_parent=in_parent, after_in_child=in_child)
