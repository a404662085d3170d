# cython: language_level=3
# cython: freethreading_compatible=True
"""The functions that process every byte, compiled. pure.py has the same functions in Python, with documentation.

They need no GIL. There is no mutable state in this module. The functions only read their arguments, which are immutable
or, like `frames` of pack(), checked again when they are used. A buffer must not change during a call: then the result is
undefined, but all reads and writes stay within their bounds, because each length is read once. The methods of a Payload
lock it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pyport cimport PY_SSIZE_T_MAX
from cpython.ref cimport PyObject, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

__all__ = ["Payload", "apply_mask", "pack", "take_messages", "take_small_frames"]

cdef extern from "Python.h":
    # These take raw pointers because Payload resizes its bytes object, which is allowed only while nothing else refers
    # to the object.
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *data, Py_ssize_t size) except NULL
    int resize_bytes "_PyBytes_Resize" (PyObject **data, Py_ssize_t size) except -1
    char *memory_of "PyBytes_AS_STRING" (PyObject *data)

cdef enum:
    TEXT = 0x81
    BINARY = 0x82
    MASK = 0x80
    # Maximum size of text that is unmasked on the stack, in bytes.
    SCRATCH = 4096


cdef void xor(uint8_t *out, const uint8_t *data, Py_ssize_t size, const uint8_t *key, Py_ssize_t offset) noexcept nogil:
    # Compilers turn memcpy() of a word into an unaligned load or store.
    cdef uint8_t pad[8]
    cdef uint64_t pad_word, word
    cdef Py_ssize_t i
    for i in range(8):
        pad[i] = key[(offset + i) & 3]
    memcpy(&pad_word, pad, 8)
    cdef Py_ssize_t words = size >> 3
    for i in range(words):
        memcpy(&word, data + 8 * i, 8)
        word ^= pad_word
        memcpy(out + 8 * i, &word, 8)
    for i in range(8 * words, size):
        out[i] = data[i] ^ pad[i & 7]


cdef inline uint64_t big_endian(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    cdef uint64_t value = 0
    cdef Py_ssize_t i
    for i in range(size):
        value = value << 8 | data[i]
    return value


def apply_mask(const uint8_t[::1] data not None, bytes key not None, offset=0):
    if PyBytes_GET_SIZE(key) != 4:
        raise ValueError("key must have four bytes")
    cdef Py_ssize_t size = data.shape[0]
    # The second & is in C: the operator of an arbitrary object may return any number.
    cdef Py_ssize_t start = <Py_ssize_t>(offset & 3) & 3
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    if size:
        xor(
            <uint8_t *>PyBytes_AS_STRING(result), &data[0], size, <const uint8_t *>PyBytes_AS_STRING(key), start
        )
    return result


cdef object make_text(const uint8_t *data, Py_ssize_t size, const uint8_t *key):
    """Return the text, or None if it is not UTF-8."""
    cdef uint8_t scratch[SCRATCH]
    cdef bytes large
    try:
        if key == NULL:
            return PyUnicode_DecodeUTF8(<const char *>data, size, NULL)
        if size <= SCRATCH:
            xor(scratch, data, size, key, 0)
            return PyUnicode_DecodeUTF8(<const char *>scratch, size, NULL)
        large = make_bytes(data, size, key)
        return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(large), size, NULL)
    except UnicodeDecodeError:
        return None


cdef bytes make_bytes(const uint8_t *data, Py_ssize_t size, const uint8_t *key):
    if key == NULL:
        return PyBytes_FromStringAndSize(<const char *>data, size)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    xor(<uint8_t *>PyBytes_AS_STRING(result), data, size, key, 0)
    return result


def take_messages(const uint8_t[::1] data not None, Py_ssize_t position, bint masked, limit, Py_ssize_t count):
    cdef Py_ssize_t end = data.shape[0]
    cdef const uint8_t *bytes_in = &data[0] if end else NULL
    # No message can be larger than the data.
    cdef uint64_t most = end if limit is None or limit > end else limit
    cdef Py_ssize_t header = 6 if masked else 2
    cdef uint8_t mask = MASK if masked else 0
    cdef Py_ssize_t start, length
    cdef uint64_t size
    cdef const uint8_t *key
    cdef list messages = []
    cdef object message
    if position < 0:
        raise ValueError("position must not be negative")
    while count > 0:
        if end - position < header:
            break
        start = position + header
        size = bytes_in[position + 1] ^ mask
        if size > 125:
            if size > 127:
                break
            length = 2 if size == 126 else 8
            start += length
            if start > end:
                break
            size = big_endian(bytes_in + position + 2, length)
            if size < (126 if length == 2 else 0x10000):
                break
        if size > most or size > <uint64_t>(end - start):
            break
        key = bytes_in + start - 4 if masked else NULL
        if bytes_in[position] == BINARY:
            message = make_bytes(bytes_in + start, <Py_ssize_t>size, key)
        elif bytes_in[position] == TEXT:
            message = make_text(bytes_in + start, <Py_ssize_t>size, key)
            if message is None:
                break
        else:
            break
        messages.append(message)
        count -= 1
        position = start + <Py_ssize_t>size
    return messages, position


def take_small_frames(
    const uint8_t[::1] data not None, Py_ssize_t position, bint masked, bytes allowed not None, Py_ssize_t count
):
    cdef Py_ssize_t end = data.shape[0]
    cdef const uint8_t *bytes_in = &data[0] if end else NULL
    cdef Py_ssize_t header = 6 if masked else 2
    cdef uint8_t mask = MASK if masked else 0
    cdef Py_ssize_t start
    cdef uint8_t first_byte, size
    cdef list frames = []
    if position < 0:
        raise ValueError("position must not be negative")
    if PyBytes_GET_SIZE(allowed) != 256:
        raise ValueError("allowed must have 256 bytes")
    cdef const uint8_t *is_allowed = <const uint8_t *>PyBytes_AS_STRING(allowed)
    while count > 0:
        if end - position < header:
            break
        start = position + header
        first_byte = bytes_in[position]
        size = bytes_in[position + 1] ^ mask
        if size > 125 or size > end - start or not is_allowed[first_byte]:
            break
        frames.append((first_byte, make_bytes(bytes_in + start, size, bytes_in + start - 4 if masked else NULL), 0))
        count -= 1
        position = start + size
    return frames, position


cdef inline Py_ssize_t header_size(Py_ssize_t size) noexcept nogil:
    return 2 if size < 126 else 4 if size < 0x10000 else 10


def pack(list frames not None, bytes keys=None):
    cdef Py_ssize_t total = 0, count = len(frames), size, i
    cdef Py_ssize_t key_size = 0 if keys is None else 4
    cdef uint8_t mask = 0 if keys is None else MASK
    cdef uint8_t first_byte
    cdef tuple frame
    cdef bytes payload
    for frame in frames:
        payload = frame[1]
        size = len(payload)
        # The same payload may occur so often that the sum would overflow.
        if size > PY_SSIZE_T_MAX - 14 - total:
            raise OverflowError("the frames are too large")
        total += header_size(size) + key_size + size
    cdef const uint8_t *key = NULL
    if keys is not None:
        if PyBytes_GET_SIZE(keys) < 4 * count:
            raise ValueError("keys must have four bytes for each frame")
        key = <const uint8_t *>PyBytes_AS_STRING(keys)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, total)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(result)
    for frame in frames:
        first_byte = frame[0]
        payload = frame[1]
        size = len(payload)
        # Converting first_byte may run Python code that changes the list. These checks make sure that writes stay within
        # the result, and reads within the keys.
        total -= header_size(size) + key_size + size
        count -= 1
        if total < 0 or count < 0:
            raise RuntimeError("frames must not change while they are packed")
        out[0] = first_byte
        if size < 126:
            out[1] = mask | <uint8_t>size
            out += 2
        elif size < 0x10000:
            out[1] = mask | 126
            out[2] = <uint8_t>(size >> 8)
            out[3] = <uint8_t>(size & 0xFF)
            out += 4
        else:
            out[1] = mask | 127
            for i in range(8):
                out[2 + i] = <uint8_t>((<uint64_t>size >> (56 - 8 * i)) & 0xFF)
            out += 10
        if keys is None:
            memcpy(out, PyBytes_AS_STRING(payload), size)
        else:
            memcpy(out, key, 4)
            out += 4
            xor(out, <const uint8_t *>PyBytes_AS_STRING(payload), size, key, 0)
            key += 4
        out += size
    if total:
        raise RuntimeError("frames must not change while they are packed")
    return result


cdef class Payload:
    # A bytes object of the size `room`, of which `size` bytes are used. Only take() gives it away.
    cdef PyObject *data
    cdef Py_ssize_t room
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t total

    def __cinit__(self, Py_ssize_t total):
        if total < 0:
            raise ValueError("total must not be negative")
        self.total = total

    def __dealloc__(self):
        Py_XDECREF(self.data)

    @cython.critical_section
    def add(self, const uint8_t[::1] piece not None, bytes key not None):
        cdef Py_ssize_t size = piece.shape[0]
        cdef Py_ssize_t key_size = PyBytes_GET_SIZE(key)
        if key_size != 0 and key_size != 4:
            raise ValueError("key must have four bytes")
        if size > self.total - self.size:
            raise ValueError("the payload must not be larger than its total size")
        if not size:
            return
        if size > self.room - self.size:
            # At most twice as much as has arrived.
            self.grow(min(self.total, max(self.size + size, 2 * self.size)))
        cdef uint8_t *out = <uint8_t *>memory_of(self.data) + self.size
        if key_size:
            xor(out, &piece[0], size, <const uint8_t *>PyBytes_AS_STRING(key), self.size & 3)
        else:
            memcpy(out, &piece[0], size)
        self.size += size

    cdef int grow(self, Py_ssize_t room) except -1:
        self.room = 0
        if self.data == NULL:
            self.data = new_bytes(NULL, room)
        else:
            resize_bytes(&self.data, room)
        self.room = room
        return 0

    @cython.critical_section
    def take(self):
        cdef bytes result
        self.total = 0
        if self.data == NULL:
            # Nothing was added, or there was not enough memory for it.
            self.size = 0
            return b""
        if self.size < self.room:
            self.grow(self.size)
        result = <bytes>self.data
        Py_XDECREF(self.data)
        self.data = NULL
        self.room = self.size = 0
        return result
