/* Runs until it is killed: an executable to be held. */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
