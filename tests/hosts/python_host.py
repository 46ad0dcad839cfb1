"""A tracker from Python, through ctypes and the selectors module. usage: python_host.py PID"""
import ctypes
import os
import selectors
import sys
import time
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

fdspan = ctypes.CDLL("libfdspan.so.0")


class Time(Structure):
    _fields_ = [("earliest_ns", c_uint64), ("latest_ns", c_uint64), ("source", c_uint32), ("reserved", c_uint32)]


class Reference(Structure):  # as far as it is used here: later fields stay where they are
    _fields_ = [(name, c_uint32) for name in ("kind", "type", "name", "valid")]
    _fields_ += [("fd", c_int32), ("tid", c_int32), ("path", c_char_p)]


class Event(Structure):
    _fields_ = [("kind", c_uint32), ("valid", c_uint32), ("sequence", c_uint64), ("when", Time), ("process", c_void_p),
                ("reference", POINTER(Reference))]


OnEvent = CFUNCTYPE(None, c_void_p, POINTER(Event))


class Options(Structure):
    _fields_ = [("size", c_size_t), ("backend", c_uint32), ("flags", c_uint32), ("events", c_uint32), ("types", c_uint32),
                ("pids", POINTER(c_int32)), ("pid_count", c_size_t), ("trees", c_void_p), ("tree_count", c_size_t), ("cgroups", c_void_p),
                ("cgroup_count", c_size_t), ("paths", c_void_p), ("path_count", c_size_t), ("minimum_age_ns", c_uint64),
                ("memory_bytes", c_uint64), ("poll_interval_ns", c_uint64), ("resync_interval_ns", c_uint64), ("on_event", OnEvent),
                ("event_context", c_void_p), ("on_log", c_void_p), ("log_context", c_void_p)]


fdspan.fdspan_event_name.restype = c_char_p
fdspan.fdspan_close.restype = c_void_p
fdspan.fdspan_close.argtypes = fdspan.fdspan_get_fd.argtypes = [c_void_p]
fdspan.fdspan_process.argtypes = [c_void_p, c_uint32]
fdspan.fdspan_get_timeout_ns.argtypes = [c_void_p, POINTER(c_uint64)]
EXIT = 1 << 5
running = True


@OnEvent
def on_event(_, event):
    global running
    if event[0].reference:
        name = fdspan.fdspan_event_name(event[0].kind).decode()
        print(name, event[0].reference[0].fd, os.fsdecode(event[0].reference[0].path), flush=True)
    running = running and event[0].kind != EXIT


def check(code):
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return code


options = Options(size=ctypes.sizeof(Options), pids=(c_int32 * 1)(int(sys.argv[1])), pid_count=1, on_event=on_event)
tracker = c_void_p()
check(fdspan.fdspan_open(ctypes.byref(options), ctypes.byref(tracker)))
loop = selectors.DefaultSelector()
loop.register(check(fdspan.fdspan_get_fd(tracker)), selectors.EVENT_READ)
print("ready", flush=True)
while running:
    at_ns = c_uint64()
    check(fdspan.fdspan_get_timeout_ns(tracker, ctypes.byref(at_ns)))
    loop.select(max(0, at_ns.value - time.monotonic_ns()) / 1e9 if at_ns.value != 2**64 - 1 else None)
    check(fdspan.fdspan_process(tracker, 1000))
loop.close()
fdspan.fdspan_close(tracker)
