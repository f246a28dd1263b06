from extmeta.pagetable cimport PageTable
def word(PageTable t, vpn): return t.read_word(vpn)
def store(PageTable t, vpn, value): return t.write_word(vpn, value)
