/* Holds a deleted file by nothing but a message in a socket: usage: hold_in_flight PATH. Says "ready", then runs until it is killed. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **values)
{
	char data = 'x', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec piece = {&data, 1};
	struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int ends[2], file;

	if (count != 2 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		return 2;
	file = open(values[1], O_RDWR | O_CREAT | O_EXCL, 0600);
	if (file < 0 || write(file, "in flight", 9) != 9 || fsync(file) || unlink(values[1]))
		return 3;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &file, sizeof(file));
	if (sendmsg(ends[0], &message, 0) != 1 || close(file))
		return 4;
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
