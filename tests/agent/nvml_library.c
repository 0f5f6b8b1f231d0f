/* A libnvidia-ml.so.1 that is a machine with two GPUs (or NVML_GPUS of them, at most 16), by NVML's
 * own binary interface (nvml.h 12):
 * what nvidia-ml-py and our reader do with structures and pointers is tried for real. The second
 * GPU fell off its bus. Functions that are not here are those that an older driver does not have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int ret;
typedef void *device;
typedef unsigned int u32;
typedef unsigned long long u64;
enum { OK = 0, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };
enum { DOUBLE_ = 0, UINT_ = 1, ULONGLONG_ = 3 };

static char gpus[16];
static u64 looks; /* grows at each read of the fields: counters move */
#define ALIVE(d) if ((char *)(d) == &gpus[1]) return GPU_IS_LOST

ret nvmlInitWithFlags(u32 flags) { return OK; }
ret nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(ret r) { return r == GPU_IS_LOST ? "GPU is lost" : "an error"; }
ret nvmlDeviceGetCount_v2(u32 *count) {
    *count = getenv("NVML_GPUS") ? atoi(getenv("NVML_GPUS")) : 2;
    return OK;
}
ret nvmlDeviceGetHandleByIndex_v2(u32 index, device *d) { *d = &gpus[index]; return OK; }

struct pci { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; };
ret nvmlDeviceGetPciInfo_v3(device d, struct pci *p) {
    memset(p, 0, sizeof *p);
    snprintf(p->bus_id, sizeof p->bus_id, "00000000:%02X:00.0", 16 + (int)((char *)d - gpus));
    return OK;
}

struct util { u32 gpu, memory; };
ret nvmlDeviceGetUtilizationRates(device d, struct util *u) {
    ALIVE(d);
    u->gpu = 97, u->memory = 40;
    return OK;
}

struct memory_v2 { u32 version; u64 total, reserved, free, used; };
ret nvmlDeviceGetMemoryInfo_v2(device d, struct memory_v2 *m) {
    ALIVE(d);
    m->total = 80ULL << 30, m->reserved = 1ULL << 30, m->used = 60ULL << 30, m->free = 19ULL << 30;
    return m->version == 0x02000028 ? OK : 25;
}

ret nvmlDeviceGetPowerUsage(device d, u32 *mw) { ALIVE(d); *mw = 651250; return OK; }
ret nvmlDeviceGetEnforcedPowerLimit(device d, u32 *mw) { ALIVE(d); *mw = 700000; return OK; }
ret nvmlDeviceGetTemperature(device d, u32 kind, u32 *c) { ALIVE(d); *c = 61; return OK; }
ret nvmlDeviceGetClockInfo(device d, u32 kind, u32 *mhz) {
    ALIVE(d);
    *mhz = kind == 1 ? 1755 : kind == 2 ? 2619 : 0;
    return OK;
}
ret nvmlDeviceGetCurrentClocksThrottleReasons(device d, u64 *bits) { ALIVE(d); *bits = 4; return OK; }
ret nvmlDeviceGetTotalEccErrors(device d, u32 kind, u32 counter, u64 *count) {
    ALIVE(d);
    *count = kind == 0 ? 10 + looks : 0;
    return OK;
}
ret nvmlDeviceGetRemappedRows(device d, u32 *corr, u32 *unc, u32 *pending, u32 *failed) {
    ALIVE(d);
    *corr = 1, *unc = 2, *pending = 1, *failed = 0;
    return OK;
}

struct field { u32 id, scope; long long at, latency; u32 type; ret r; union { double d; u32 u; u64 ull; } v; };
ret nvmlDeviceGetFieldValues(device d, int count, struct field *f) {
    ALIVE(d);
    looks++;
    for (int i = 0; i < count; i++) {
        f[i].r = OK, f[i].type = ULONGLONG_;
        switch (f[i].id) {
        case 82: f[i].type = UINT_, f[i].v.u = 75; break;
        case 94: f[i].v.ull = 5 + looks; break;
        case 138: f[i].r = f[i].scope == 0xFFFFFFFF ? OK : NOT_SUPPORTED, f[i].v.ull = 1000 * looks; break;
        case 230: f[i].type = UINT_, f[i].v.u = 1; break;
        default: f[i].r = NOT_SUPPORTED;
        }
    }
    return OK;
}

struct support { u32 version, is_supported; };
struct metric { u32 id; ret r; double value; const char *names[3]; };
struct metrics { u32 version, count; void *first, *second; struct metric m[]; };
static char samples[64];
static int made;
ret nvmlGpmQueryDeviceSupport(device d, struct support *s) { ALIVE(d); s->is_supported = 1; return OK; }
ret nvmlGpmSampleAlloc(void **s) { *s = &samples[made++ % 64]; return OK; }
ret nvmlGpmSampleFree(void *s) { return OK; }
ret nvmlGpmSampleGet(device d, void *s) { ALIVE(d); *(char *)s = 1; return OK; }
ret nvmlGpmMetricsGet(struct metrics *asked) {
    if (asked->version != 1 || asked->first == asked->second) return 2;
    if (!*(char *)asked->first || !*(char *)asked->second) return 2;
    for (u32 i = 0; i < asked->count; i++) {
        asked->m[i].r = asked->m[i].id == 2 || asked->m[i].id == 20 ? OK : NOT_SUPPORTED;
        asked->m[i].value = asked->m[i].id == 2 ? 81.5 : 2.0;
    }
    return OK;
}
