/*
 * lying_fuse MOUNTPOINT: a FUSE file system with two files that answer SEEK_DATA and SEEK_HOLE with what can't be. Prints "ready" when it is
 * mounted. "data-behind" has its next data always at its begin, "no-data" a hole wherever data begins. Both were last changed ten
 * seconds before that, whatever is done to them: they can be deleted.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { file_bytes = 65536, extent_bytes = 4096 };
static const char data_behind_path[] = "/data-behind";
static const char no_data_path[] = "/no-data";
static time_t changed;

static int lying_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
	(void)info;
	memset(st, 0, sizeof *st);
	st->st_nlink = 1;
	st->st_ctime = changed;
	if (strcmp(path, "/") == 0) {
		st->st_mode = S_IFDIR | 0755;
	} else if (strcmp(path, data_behind_path) == 0 || strcmp(path, no_data_path) == 0) {
		st->st_mode = S_IFREG | 0644;
		st->st_size = file_bytes;
	} else {
		return -ENOENT;
	}
	return 0;
}

static int lying_read(const char *path, char *bytes, size_t size, off_t offset, struct fuse_file_info *info)
{
	size_t at = 0;
	(void)path;
	(void)info;
	for (; at < size && offset < file_bytes; ++at, ++offset)
		bytes[at] = (char)(offset / 256);
	return (int)at;
}

static off_t lying_lseek(const char *path, off_t offset, int whence, struct fuse_file_info *info)
{
	(void)info;
	if (strcmp(path, no_data_path) == 0)
		return offset;
	return whence == SEEK_DATA ? 0 : extent_bytes;
}

static int lying_unlink(const char *path)
{
	(void)path;
	return 0;
}

static void *lying_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
	(void)connection;
	config->hard_remove = 1;
	changed = time(NULL) - 10;
	puts("ready");
	fflush(stdout);
	return NULL;
}

static const struct fuse_operations operations = {
	.getattr = lying_getattr,
	.read = lying_read,
	.lseek = lying_lseek,
	.unlink = lying_unlink,
	.init = lying_init,
};

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: lying_fuse MOUNTPOINT\n");
		return 2;
	}
	char *arguments[] = {argv[0], "-f", "-s", "-o", "allow_other", argv[1], NULL};
	return fuse_main(6, arguments, &operations, NULL);
}
