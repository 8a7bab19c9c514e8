// ATen/cuda/CUDAContextLight.h names the handle.
#pragma once
#include "cusolver_common.h"
typedef struct cusolverDnContext* cusolverDnHandle_t;
