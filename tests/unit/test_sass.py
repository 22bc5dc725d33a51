"""What is read from machine code: loops, what they load and multiply, programs that fit."""

from helpers.sass import loops_of, resident, width_of

LISTING = """
.text.linear:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R5], desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/              @!P0 LDGSTS.E.64 [R5], desc[UR4][R2.64] ;
        /*0030*/                   F2FP.F16.E4M3.UNPACK_B R5, R6 ;
        /*0040*/                   HGMMA.64x16x16.F32.BF16 R24, R4, gdesc[UR4], R24 ;
        /*0050*/               @P0 BRA `(.L_x_1) ;
        /*0060*/                   BRA `(.L_x_3) ;
        /*0070*/               @P1 BRA `(.L_x_2) ;
.L_x_3:
        /*0080*/                   EXIT ;
"""


def test_the_innermost_loop_is_counted_without_what_surrounds_it():
    (loop,) = loops_of(LISTING)
    assert loop.length == 4
    assert loop.copied_bytes == 8
    assert loop.number_of("F2FP", "F2F.") == 1
    assert loop.multiplications * 4 == 64 * 16 * 16


def test_an_instruction_moves_what_its_name_says():
    assert [width_of(n) for n in ("LDG.E.128", "LDG.E", "LDS.U16", "LDG.E.U8")] == [16, 4, 2, 1]


def test_the_scarcest_of_registers_shared_memory_and_warps_says_how_many_programs_fit():
    assert resident(128, 90_112, 8) == (2, "registers")
    assert resident(149, 122_880, 8) == (1, "registers")
    assert resident(40, 120_000, 4) == (1, "shared")
    assert resident(16, 0, 32) == (2, "warps")
