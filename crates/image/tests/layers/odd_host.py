"""A file system for tests that shows a directory with one thing missing: odd_host.py QUIRK BACKING MOUNTPOINT

Quirks: no-links (hard links are refused), fold-case (names that differ in case alone are one), short-names (names of more
than 100 bytes are refused), other-inodes (listings give other inode numbers than stat). Stays in the foreground until it is unmounted.
"""
import errno
import os
import sys

from fusepy import FUSE, FuseOSError, Operations

QUIRK, BACKING, MOUNTPOINT = sys.argv[1:4]


class OddHost(Operations):
    def real(self, path):
        at = os.fsencode(BACKING)
        for name in filter(None, os.fsencode(path).split(b"/")):
            if QUIRK == "short-names" and len(name) > 100:
                raise FuseOSError(errno.ENAMETOOLONG)
            if QUIRK == "fold-case" and os.path.isdir(at):
                name = next((known for known in os.listdir(at) if known.lower() == name.lower()), name)
            at = os.path.join(at, name)
        return at

    def getattr(self, path, fh=None):
        stat = os.lstat(self.real(path))
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_atime", "st_mtime", "st_ctime", "st_ino")
        return {name: getattr(stat, name) for name in names}

    def readdir(self, path, fh):
        yield from (".", "..")
        with os.scandir(self.real(path)) as entries:
            for entry in entries:
                yield os.fsdecode(entry.name), {"st_ino": entry.inode()}, 0

    def create(self, path, mode, fi=None):
        return os.open(self.real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path, flags):
        return os.open(self.real(path), flags)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(self.real(path), length)

    def release(self, path, fh):
        os.close(fh)

    def mkdir(self, path, mode):
        os.mkdir(self.real(path), mode)

    def rmdir(self, path):
        os.rmdir(self.real(path))

    def rename(self, old, new):
        os.rename(self.real(old), self.real(new))

    def unlink(self, path):
        os.unlink(self.real(path))

    def link(self, target, source):
        if QUIRK == "no-links":
            raise FuseOSError(errno.EPERM)
        os.link(self.real(source), self.real(target), follow_symlinks=False)

    def utimens(self, path, times=None):
        os.utime(self.real(path), times)

    def setxattr(self, path, name, value, options, position=0):
        os.setxattr(self.real(path), name, value, options)

    def getxattr(self, path, name, position=0):
        return os.getxattr(self.real(path), name)

    def listxattr(self, path):
        return os.listxattr(self.real(path))


# Without the last option there are inode numbers of libfuse's own making, and none in listings.
FUSE(OddHost(), MOUNTPOINT, foreground=True, nothreads=True, use_ino=QUIRK != "other-inodes")
