/* Stands before the libraries of `xl`, so that it reads configurations where no Xen runs (`xl -N create`): the hypervisor that
 * it asks for its size has 16 CPUs. Names and arguments are those of libxenctrl and libxenstore. */
#include <stdlib.h>
#include <string.h>

#define CPUS 16

void *xc_interface_open(void *logger, void *other, unsigned flags) {
    (void)logger, (void)other, (void)flags;
    return calloc(1, 4096);
}
int xc_interface_close(void *xc) {
    (void)xc;
    return 0;
}
int xc_get_max_cpus(void *xc) {
    (void)xc;
    return CPUS;
}
int xc_get_online_cpus(void *xc) {
    (void)xc;
    return CPUS;
}
int xc_get_max_nodes(void *xc) {
    (void)xc;
    return 1;
}
long xc_sharing_freed_pages(void *xc) {
    (void)xc;
    return 0;
}
long xc_sharing_used_frames(void *xc) {
    (void)xc;
    return 0;
}
/* It begins with: threads of a core, cores of a socket, CPUs, the last one's number. */
int xc_physinfo(void *xc, void *info) {
    unsigned *numbers = info;
    (void)xc;
    memset(info, 0, 64);
    numbers[0] = 1, numbers[1] = CPUS, numbers[2] = CPUS, numbers[3] = CPUS - 1;
    return 0;
}
/* 0: the version; 2: how it was built, four texts; 7: the size of a page; 10: the build's number. All else is a text. */
int xc_version(void *xc, int what, void *answer) {
    (void)xc;
    switch (what) {
    case 0:
        return 4 << 16 | 17;
    case 2:
        memset(answer, 0, 144);
        return 0;
    case 7:
        return 4096;
    case 10:
        return -1;
    default:
        if (answer)
            *(char *)answer = 0;
        return 0;
    }
}
void *xs_open(unsigned long flags) {
    (void)flags;
    return calloc(1, 64);
}
void xs_close(void *store) {
    (void)store;
}
int xs_fileno(void *store) {
    (void)store;
    return -1;
}
