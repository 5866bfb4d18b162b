/* Licensed under the Apache License, Version 2.0; see LICENSE. */

/* The probe for ABI 0.2.0. */

#define ABI 20
#include "../probe/probe.c"
