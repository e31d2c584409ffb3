" Completions and attribution by a Starloom server of your own. Vim 9.0.0185 or Neovim 0.7, and curl. See :help starloom
if exists('g:loaded_starloom') || !(has('nvim-0.7') || has('patch-9.0.0185'))
  finish
endif
let g:loaded_starloom = 1

command! StarloomToggle call starloom#toggle()
command! StarloomHealth call starloom#health()
command! -range=% StarloomAttribution call starloom#found#look_up(<line1>, <line2>)
command! StarloomAttributions call starloom#found#list()

inoremap <silent> <expr> <Plug>(starloom-accept) starloom#accept('all', '')
inoremap <silent> <expr> <Plug>(starloom-accept-word) starloom#accept('word', '')
inoremap <silent> <expr> <Plug>(starloom-accept-line) starloom#accept('line', '')
inoremap <silent> <Plug>(starloom-suggest) <Cmd>call starloom#suggest(1)<CR>
inoremap <silent> <Plug>(starloom-dismiss) <Cmd>call starloom#dismiss()<CR>

if !get(g:, 'starloom_no_maps', 0)
  " where nothing is shown, Tab does what it did before
  let g:starloom_tab = maparg('<Tab>', 'i', 0, 1)
  inoremap <silent> <expr> <Tab> starloom#accept('all', "\<Tab>")
  imap <M-Right> <Plug>(starloom-accept-word)
  imap <C-Right> <Plug>(starloom-accept-word)
  imap <M-CR> <Plug>(starloom-accept-line)
  imap <M-Bslash> <Plug>(starloom-suggest)
  imap <C-]> <Plug>(starloom-dismiss)
endif

augroup starloom
  autocmd!
  autocmd TextChangedI,TextChangedP,CursorMovedI * call starloom#changed()
  autocmd InsertLeave,BufLeave * call starloom#dismiss()
  autocmd BufEnter,BufLeave,BufWritePost * call starloom#remember()
  autocmd ColorScheme * call starloom#colours()
augroup END
call starloom#colours()
