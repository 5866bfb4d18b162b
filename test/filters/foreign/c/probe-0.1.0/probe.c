/* Licensed under the Apache License, Version 2.0; see LICENSE. */

/* The probe for ABI 0.1.0. */

#define ABI 10
#include "../probe/probe.c"
