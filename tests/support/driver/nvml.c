/* A made-up libnvidia-ml: what it answers stands in the file STATE, which is read anew at every question.
 *
 * A line of that file is `key value`; the last line of a key counts. A GPU's handle is 256 for the first, 512 for the second;
 * that of its n-th MIG device is n + 1 more. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALISED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };
enum { XID = 8, NONE = -1 };
typedef uintptr_t Device;
typedef struct { long seen; Device registered[64]; int count; } Set;
typedef struct { Device device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } Event;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;

static int initialised;

static int look_up(const char *key, char *value, size_t size) {
	FILE *file = fopen(STATE, "re");
	char line[512];
	size_t length = strlen(key);
	int found = 0;
	if (!file) return 0;
	while (fgets(line, sizeof line, file))
		if (!strncmp(line, key, length) && line[length] == ' ') {
			line[strcspn(line, "\n")] = 0;
			snprintf(value, size, "%s", line + length + 1);
			found = 1;
		}
	fclose(file);
	return found;
}

static long number(const char *key, long otherwise) {
	char value[64];
	return look_up(key, value, sizeof value) ? strtol(value, NULL, 10) : otherwise;
}

/* Every question comes through here. */
static int state(void) {
	while (number("hang", 0)) pause();
	if (number("crash", 0)) raise(SIGSEGV);
	return initialised ? OK : UNINITIALISED;
}

static void name_key(char *key, size_t size, Device device, const char *what) {
	int gpu = (int)(device / 256) - 1, part = (int)(device % 256) - 1;
	if (part == NONE) snprintf(key, size, "%d.%s", gpu, what);
	else snprintf(key, size, "%d.mig.%d.%s", gpu, part, what);
}

static int text_of(Device device, const char *what, char *value, size_t size) {
	char key[64];
	name_key(key, sizeof key, device, what);
	return look_up(key, value, size);
}

static long number_of(Device device, const char *what, long otherwise) {
	char key[64];
	name_key(key, sizeof key, device, what);
	return number(key, otherwise);
}

static int is_part(Device device) { return device % 256 != 0; }
static Device whole(Device device) { return device - device % 256; }

static int device_state(Device device) {
	char uuid[96];
	int code = state();
	if (code) return code;
	if (number_of(whole(device), "lost", 0)) return LOST;
	return text_of(device, "uuid", uuid, sizeof uuid) ? OK : INVALID;
}

static int copy(const char *from, char *to, unsigned size) {
	if (strlen(from) >= size) return TOO_SMALL;
	strcpy(to, from);
	return OK;
}

static int text_answer(Device device, const char *what, char *to, unsigned size) {
	char value[256];
	int code = device_state(device);
	if (code) return code;
	return text_of(device, what, value, sizeof value) ? copy(value, to, size) : NOT_SUPPORTED;
}

static int number_answer(Device device, const char *what, unsigned *to) {
	long value;
	int code = device_state(device);
	if (code) return code;
	value = number_of(device, what, NONE);
	if (value < 0) return NOT_SUPPORTED;
	*to = (unsigned)value;
	return OK;
}

int nvmlInit_v2(void) {
	initialised = 1;
	state();
	return (int)number("init", OK);
}

int nvmlShutdown(void) {
	initialised = 0;
	return OK;
}

const char *nvmlErrorString(int code) { return code == OK ? "The operation was successful" : "An error of the stub"; }

int nvmlSystemGetDriverVersion(char *to, unsigned size) {
	char value[80];
	int code = state();
	return code ? code : look_up("version", value, sizeof value) ? copy(value, to, size) : NOT_SUPPORTED;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
	*version = (int)number("cuda", 0);
	return state();
}

int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

int nvmlDeviceGetCount_v2(unsigned *count) {
	*count = (unsigned)number("count", 0);
	return state();
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
	*device = 256 * ((Device)index + 1);
	return device_state(*device);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device) {
	char value[96];
	int code = state();
	long count = number("count", 0);
	if (code) return code;
	for (long gpu = 0; gpu < count; gpu++)
		for (Device part = 0; part < 64; part++) {
			*device = 256 * ((Device)gpu + 1) + part;
			if (!text_of(*device, "uuid", value, sizeof value)) break;
			if (!strcmp(uuid, value)) return device_state(*device);
		}
	return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device device, char *to, unsigned size) { return text_answer(device, "uuid", to, size); }
int nvmlDeviceGetName(Device device, char *to, unsigned size) { return text_answer(device, "name", to, size); }

int nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
	int code = device_state(device);
	if (code) return code;
	memory->total = (unsigned long long)number_of(device, "total", 0) << 20;
	memory->used = (unsigned long long)number_of(device, "used", 0) << 20;
	memory->free = memory->total - memory->used;
	return OK;
}

#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(Device device, Memory2 *memory) {
	Memory plain;
	int code = nvmlDeviceGetMemoryInfo(device, &plain);
	if (code) return code;
	if (memory->version != (sizeof *memory | 2 << 24)) return INVALID;
	memory->total = plain.total;
	memory->used = plain.used;
	memory->free = plain.free;
	memory->reserved = 0;
	return OK;
}
#endif

int nvmlDeviceGetUtilizationRates(Device device, unsigned rates[2]) {
	/* NVML does not tell it of parts, nor of GPUs that have some. */
	if (is_part(device) || number_of(device, "parts", NONE) >= 0) return NOT_SUPPORTED;
	rates[1] = 0;
	return number_answer(device, "percent", &rates[0]);
}

int nvmlDeviceGetPciInfo_v3(Device device, Pci *pci) {
	int code = device_state(device);
	memset(pci, 0, sizeof *pci);
	if (code) return code;
	text_of(device, "pci", pci->legacy, sizeof pci->legacy);
	sscanf(pci->legacy, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
	snprintf(pci->bus_id, sizeof pci->bus_id, "0000%s", pci->legacy);
	pci->id = 0x20b010de;
	return OK;
}

int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) {
	unsigned parts;
	int code = device_state(device);
	if (code) return code;
	*current = *pending = number_answer(device, "parts", &parts) == OK;
	return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count) {
	*count = 7;
	return device_state(device);
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *part) {
	int code = device_state(device);
	if (code) return code;
	*part = device + 1 + index;
	return device_state(*part) ? NOT_FOUND : OK;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device device, Device *parent) {
	*parent = whole(device);
	return is_part(device) ? device_state(device) : INVALID;
}

int nvmlDeviceIsMigDeviceHandle(Device device, unsigned *answer) {
	*answer = (unsigned)is_part(device);
	return device_state(device);
}

int nvmlDeviceGetGpuInstanceId(Device device, unsigned *id) { return number_answer(device, "gi", id); }
int nvmlDeviceGetComputeInstanceId(Device device, unsigned *id) { return number_answer(device, "ci", id); }
int nvmlDeviceGetBrand(Device device, unsigned *brand) { return number_answer(device, "brand", brand); }

int nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor) {
	char value[16];
	int code = text_answer(device, "capability", value, sizeof value);
	if (code) return code;
	return sscanf(value, "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetSupportedEventTypes(Device device, unsigned long long *types) {
	*types = is_part(device) || number_of(device, "no-events", 0) ? 0 : XID;
	return device_state(device);
}

int nvmlEventSetCreate(Set **set) {
	int code = state();
	*set = calloc(1, sizeof **set);
	(*set)->seen = number("xids", 0);
	return code;
}

int nvmlEventSetFree(Set *set) {
	free(set);
	return OK;
}

int nvmlDeviceRegisterEvents(Device device, unsigned long long types, Set *set) {
	unsigned long long supported;
	int code = nvmlDeviceGetSupportedEventTypes(device, &supported);
	if (code) return code;
	if (types & ~supported) return NOT_SUPPORTED;
	if (set->count < 64) set->registered[set->count++] = device;
	return OK;
}

static int next_xid(Set *set, Event *event) {
	while (set->seen < number("xids", 0)) {
		char key[64];
		snprintf(key, sizeof key, "xid.%ld.", set->seen++);
		size_t end = strlen(key);
#define FIELD(name) (strcpy(key + end, name), number(key, NONE))
		event->device = 256 * ((Device)FIELD("gpu") + 1);
		event->data = (unsigned long long)FIELD("number");
		event->gpu_instance = (unsigned)FIELD("gi");
		event->compute_instance = (unsigned)FIELD("ci");
		event->type = XID;
		for (int i = 0; i < set->count; i++)
			if (set->registered[i] == event->device) return 1;
	}
	return 0;
}

int nvmlEventSetWait_v2(Set *set, Event *event, unsigned timeout_ms) {
	for (unsigned waited = 0;; waited += 10) {
		int code = state();
		if (code) return code;
		if (next_xid(set, event)) return OK;
		for (int i = 0; i < set->count; i++)
			if (number_of(set->registered[i], "lost", 0)) return LOST;
		if (waited >= timeout_ms) return TIMEOUT;
		usleep(10000);
	}
}
