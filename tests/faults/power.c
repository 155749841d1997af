/* Cuts the power of the ext4 file system at argv[1]: no journal flush, no write-back, every later operation fails. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int argc, char **argv) {
  uint32_t without_flushing = 2; /* EXT4_GOING_FLAGS_NOLOGFLUSH */
  int directory = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY) : -1;
  if (directory < 0 || ioctl(directory, _IOR('X', 125, uint32_t), &without_flushing) != 0) {
    perror("cutting the power");
    return 1;
  }
  return 0;
}
