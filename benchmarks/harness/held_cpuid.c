// A measuring device: answers the CPUID instructions that held_cpuid.py has replaced by UD2, as a CPU with AVX2 and FMA
// but no AVX-512, VNNI or AMX would. Loading the library installs the handler.
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

static struct sigaction previous;

static void hide(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {  // r: eax, ebx, ecx, edx
  if (leaf == 7 && subleaf == 0) {
    r[1] &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);  // AVX-512 F to VL
    r[2] &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);      // VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    r[3] &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);  // ..., FP16, AMX
  }
  if (leaf == 7 && subleaf == 1) {
    r[0] &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23);   // AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA
    r[3] &= ~(1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19);  // AVX-VNNI-INT8, NE-CONVERT, AMX-COMPLEX, INT16, AVX10
  }
  if (leaf == 0x24) memset(r, 0, 4 * sizeof(uint32_t));   // AVX10
}

static void handle(int signal, siginfo_t* info, void* context) {
  greg_t* g = ((ucontext_t*)context)->uc_mcontext.gregs;
  const uint8_t* code = (const uint8_t*)g[REG_RIP];
  if (code[0] != 0x0f || code[1] != 0x0b) {
    sigaction(signal, &previous, NULL);  // not ours: the instruction runs again and meets the handler before us
    return;
  }
  uint32_t r[4];
  const uint32_t leaf = (uint32_t)g[REG_RAX];
  const uint32_t subleaf = (uint32_t)g[REG_RCX];
  __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
  hide(leaf, subleaf, r);
  g[REG_RAX] = r[0];
  g[REG_RBX] = r[1];
  g[REG_RCX] = r[2];
  g[REG_RDX] = r[3];
  g[REG_RIP] += 2;
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, &previous);
}
