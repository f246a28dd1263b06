/* A process to be dumped: memory of several kinds. SIGUSR1 writes to some of it.
 *
 * It makes a file /ready when it is done, and /dirtied after SIGUSR1. /data.bin has 1 MiB.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <stdlib.h>
static volatile int go;
static void on(int s){ go = s; }
int main(void){
  size_t n = 2048; /* pages */
  char *a = mmap((void*)0x10000000000, n<<12, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED,-1,0);
  madvise(a, n<<12, MADV_NOHUGEPAGE);
  for(size_t i=0;i<n;i++) if(i%3!=2) memset(a+(i<<12), 1+i%200, 64);
  char *s = mmap(0, 64<<12, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,-1,0);
  for(int i=0;i<64;i+=2) s[i<<12]=i;
  int fd=open("/data.bin",O_RDONLY);
  char *f = mmap(0, 256<<12, PROT_READ|PROT_WRITE, MAP_PRIVATE, fd, 0);
  volatile char sum=0; for(int i=0;i<256;i++) sum+=f[i<<12];
  for(int i=0;i<256;i+=5) f[i<<12]++;
  volatile char *z = mmap(0, 128<<12, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS,-1,0);
  for(int i=0;i<128;i++) sum+=z[i<<12]; /* zero pages */
  char *h = mmap((void*)0x20000000000, 4<<20, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED,-1,0);
  madvise(h,4<<20,MADV_HUGEPAGE); memset(h,7,4<<20);
  signal(SIGUSR1,on);
  write(open("/ready",O_CREAT|O_WRONLY,0600),"x",1);
  for(;;){ pause(); if(go==SIGUSR1){ go=0; for(size_t i=0;i<n;i+=50) a[i<<12]++; 
     write(open("/dirtied",O_CREAT|O_WRONLY,0600),"x",1);} }
}
