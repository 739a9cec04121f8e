"""Ground truth to low quality: the degradation synthesis of arXiv 2409.17058, section 4 and the Real-ESRGAN paper."""
