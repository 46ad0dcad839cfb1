/*
 * hung_fuse MOUNTPOINT: a FUSE file system with one file, "held". Prints "ready" when it is mounted. Stopped with SIGSTOP it answers nobody
 * any more, which is what a dead NFS server or a crashed FUSE server looks like to everybody who asks.
 * "held" has the bytes of this very program, so that it can also be run: `held --wait` waits to be killed.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char held_path[] = "/held";
static int program = -1;
static off_t program_bytes;

static int held_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
	(void)info;
	memset(st, 0, sizeof *st);
	if (strcmp(path, "/") == 0) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
	} else if (strcmp(path, held_path) == 0) {
		st->st_mode = S_IFREG | 0755;
		st->st_nlink = 1;
		st->st_size = program_bytes;
		st->st_blocks = program_bytes / 512;
	} else {
		return -ENOENT;
	}
	return 0;
}

static int held_open(const char *path, struct fuse_file_info *info)
{
	(void)info;
	return strcmp(path, held_path) == 0 ? 0 : -ENOENT;
}

static int held_read(const char *path, char *bytes, size_t size, off_t offset, struct fuse_file_info *info)
{
	(void)path;
	(void)info;
	const ssize_t got = pread(program, bytes, size, offset);
	return got < 0 ? -errno : (int)got;
}

static void *held_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
	(void)connection;
	/* Nothing may be answered from the cache, so that whoever asks has to wait. */
	config->attr_timeout = 0;
	config->entry_timeout = 0;
	config->negative_timeout = 0;
	puts("ready");
	fflush(stdout);
	return NULL;
}

static const struct fuse_operations operations = {
	.getattr = held_getattr,
	.open = held_open,
	.read = held_read,
	.init = held_init,
};

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: hung_fuse MOUNTPOINT\n");
		return 2;
	}
	if (strcmp(argv[1], "--wait") == 0) {
		puts("waiting");
		fflush(stdout);
		for (;;)
			pause();
	}
	program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	program_bytes = lseek(program, 0, SEEK_END);
	char *arguments[] = {argv[0], "-f", "-s", "-o", "allow_other", argv[1], NULL};
	return fuse_main(6, arguments, &operations, NULL);
}
